"""Few calls for one answer: one more if it was cut off, one more if it is invalid, and no other."""

from collections.abc import Sequence

import pytest
from pydantic import BaseModel

from workers.llm import dialogue
from workers.llm.dialogue import Reply
from workers.llm.wire import Completion
from workers.runtime.handler.errors import InvalidAnswers, Refused
from workers.runtime.handler.ports import Message

QUESTION: list[Message] = [{"role": "user", "content": "How good is it?"}]
BOUND = 100
CUT, VALID, INVALID = ("length", '{"points": 5'), ("stop", '{"points": 5}'), ("stop", '{"points": "many"}')


class Verdict(BaseModel):
    points: int


class Server:
    """Answers in order. ``room`` is how long an answer can be at most; ``asked`` has each question and its limit."""

    def __init__(self, *answers: tuple[str, str], room: int = 10_000) -> None:
        self._answers = list(answers)
        self._room = room
        self.asked: list[tuple[int, int, int | None]] = []

    async def __call__(self, messages: Sequence[Message], *, times: int, input_tokens: int | None) -> Reply:
        finished, text = self._answers.pop(0)
        limit, larger = min(times * BOUND, self._room), min(2 * BOUND, self._room)
        self.asked.append((len(messages), limit, input_tokens))
        completion = Completion(
            raw={},
            text=text,
            model="m",
            finish_reason=finished,
            reasons=False,
            prompt_tokens=7,
            completion_tokens=limit,
            cached_tokens=None,
            reasoning_tokens=None,
            usage=None,
        )
        return Reply(completion, limit, larger)


async def answer(server: Server) -> int:
    value, calls = await dialogue.answer(QUESTION, Verdict, ask=server, model="m", bound=BOUND)
    assert len(calls) == len(server.asked)
    return value.points


async def test_valid_answer_is_one_call() -> None:
    """Within the bound of the form."""
    server = Server(VALID)

    assert await answer(server) == 5
    assert server.asked == [(1, 100, None)]


async def test_answer_that_was_cut_off_gets_one_larger_try() -> None:
    """The same question; its tokens are known by then."""
    server = Server(CUT, VALID)

    assert await answer(server) == 5
    assert server.asked == [(1, 100, None), (1, 200, 7)]


async def test_answer_that_was_cut_off_is_never_accepted() -> None:
    """Not even where what there is of it can be read: the model had more to say."""
    server = Server(("length", VALID[1]), ("MAX_TOKENS", VALID[1]))

    with pytest.raises(InvalidAnswers, match="was cut off at 200 tokens; a valid answer needs at most 100"):
        await answer(server)

    assert [limit for _, limit, _ in server.asked] == [100, 200]


async def test_no_larger_try_where_the_context_has_no_room() -> None:
    """It would be cut off at the same place."""
    server = Server(CUT, room=80)

    with pytest.raises(InvalidAnswers, match="cut off at 80 tokens, and its context has no room for more"):
        await answer(server)


@pytest.mark.parametrize(
    ("answers", "limits"),
    [
        ([INVALID, VALID], [100, 100]),
        ([CUT, INVALID, VALID], [100, 200, 200]),
        ([INVALID, CUT, VALID], [100, 100, 200]),
    ],
)
async def test_one_larger_try_and_one_reask_at_most(answers: list[tuple[str, str]], limits: list[int]) -> None:
    """In any order; what was enlarged stays so."""
    server = Server(*answers)

    assert await answer(server) == 5
    assert [limit for _, limit, _ in server.asked] == limits


@pytest.mark.parametrize(
    "answers", [[CUT, INVALID, CUT], [INVALID, CUT, CUT], [INVALID, INVALID], [CUT, INVALID, INVALID]]
)
async def test_the_second_failure_of_a_kind_ends_it(answers: list[tuple[str, str]]) -> None:
    """No third call of either kind is paid for in this run."""
    server = Server(*answers)

    with pytest.raises(InvalidAnswers):
        await answer(server)

    assert len(server.asked) == len(answers)


async def test_model_that_was_cut_off_while_it_reasoned_is_told_so() -> None:
    """Who reads the error must know what the tokens went into."""
    server = Server(("length", "<think>Let me see"), ("length", "<think>Let me see"))

    with pytest.raises(InvalidAnswers, match="cut off at 200 tokens with its reasoning"):
        await answer(server)


async def test_refusal_in_prose_is_told_after_the_reask() -> None:
    """A model may answer the second time."""
    server = Server(("stop", "I cannot do that."), ("stop", "I'm sorry, but I can't."))

    with pytest.raises(Refused, match="declined"):
        await answer(server)
