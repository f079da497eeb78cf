"""Get one valid answer by few calls: one more if it was cut off, one more if it is invalid. Pure but for the calls."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from pydantic import BaseModel

from workers.llm import structured
from workers.llm.errors import quotable
from workers.llm.reasoning import has_reasoning
from workers.llm.structured import InvalidAnswerError, validated
from workers.llm.wire import Completion
from workers.runtime.handler.errors import InvalidAnswers, Refused
from workers.runtime.handler.ports import Message

T = TypeVar("T", bound=BaseModel)

# The second try of an answer that was cut off may be this much longer.
LARGER = 2


@dataclass(frozen=True, slots=True)
class Reply:
    """A server's answer, how many tokens it was allowed, and how many a second try would be."""

    completion: Completion
    limit: int
    larger: int


class Ask(Protocol):
    """Makes one call. ``times`` enlarges the limit of the answer. ``input_tokens`` counts the messages, if known."""

    async def __call__(self, messages: Sequence[Message], *, times: int, input_tokens: int | None) -> Reply: ...


async def answer(
    messages: Sequence[Message], into: type[T], *, ask: Ask, model: str, bound: int
) -> tuple[T, Sequence[Completion]]:
    """Return the model's answer as ``into``, and all calls that were made for it, the answer's own last.

    ``bound`` is the most tokens that a valid answer needs. An answer that was cut off is never read: once, it is asked
    for with a larger limit. An invalid answer is asked for once more, with the error quoted. Raise InvalidAnswers if
    the answer is cut off or invalid again: that is Retryable, because a model's output is random. Raise Refused if a
    model, asked twice, says in prose that it will not answer.
    """
    asking = _Asking(ask, model, bound)
    first = await asking.whole(messages)
    try:
        return validated(first.text, into), asking.calls
    except InvalidAnswerError as error:
        second = await asking.whole(structured.reask(messages, first.text, error, into))
    try:
        return validated(second.text, into), asking.calls
    except InvalidAnswerError as error:
        if said := structured.declined(second.text):
            raise Refused(f"model {model!r} declined to answer: {quotable(said)!r}") from None
        raise InvalidAnswers(f"model {model!r} gave two invalid answers: {error}") from None


def reasons(completion: Completion) -> bool:
    """Return whether the model reasons before it answers, in the text or beside it."""
    return completion.reasons or has_reasoning(completion.text)


class _Asking:
    """Makes the calls of one question; enlarges the limit at most once."""

    def __init__(self, ask: Ask, model: str, bound: int) -> None:
        self._ask = ask
        self._model = model
        self._bound = bound
        self._times = 1
        self.calls: list[Completion] = []

    async def whole(self, messages: Sequence[Message]) -> Completion:
        """Return an answer that was not cut off; raise InvalidAnswers if a larger limit cannot help or did not."""
        reply = await self._call(messages)
        if reply.completion.is_cut and self._times == 1 and reply.larger > reply.limit:
            self._times = LARGER
            reply = await self._call(messages, input_tokens=reply.completion.prompt_tokens)
        if reply.completion.is_cut:
            raise self._cut_off(reply)
        return reply.completion

    async def _call(self, messages: Sequence[Message], *, input_tokens: int | None = None) -> Reply:
        reply = await self._ask(messages, times=self._times, input_tokens=input_tokens)
        self.calls.append(reply.completion)
        return reply

    def _cut_off(self, reply: Reply) -> InvalidAnswers:
        why = " with its reasoning" if reasons(reply.completion) else ""
        full = "" if self._times > 1 else ", and its context has no room for more"
        return InvalidAnswers(
            f"model {self._model!r} was cut off at {reply.limit:,} tokens{why}{full}; "
            f"a valid answer needs at most {self._bound:,}"
        )
