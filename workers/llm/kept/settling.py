"""Keep an answer in the statement that settles its call: both are committed, or neither."""

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from pydantic_core import to_json

from workers.llm.calls import Call, Usage
from workers.llm.kept.answers import KeptAnswer
from workers.llm.kept.questions import Question

# A job that waits for longer pays again.
KEPT_FOR = timedelta(days=7)
# A larger one is not kept, and is paid for again: no question of ours has such an answer.
MAX_ANSWER_BYTES = 1 << 20
MODEL_CHARS = 255


@dataclass(slots=True, eq=False)
class Asking:
    """The question that the current task asks. ``path`` is what its route has tried; ``kept``: its answer is kept."""

    question: Question
    path: Sequence[Mapping[str, str]] = ()
    kept: "AnswerToKeep | None" = None


# Set by ``Kept.find`` if the caller must ask, until ``keep`` or ``drop``.
being_asked: ContextVar[Asking | None] = ContextVar("being_asked", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerToKeep:
    """A paid, valid answer under the id of its call, and the question that it answers."""

    id: UUID
    question: Question
    answer: KeptAnswer

    def row(self) -> dict[str, Any] | None:
        """Return what ``llm.keep_answers`` reads; None for an answer that is too large to be kept."""
        question, answer = self.question, self.answer
        if len(to_json(answer.raw)) > MAX_ANSWER_BYTES:
            return None
        return question_row(question) | {
            "id": self.id,
            "owner_id": question.caller.owner_id,
            "raw": answer.raw,
            "path": answer.path,
            "model": answer.model[:MODEL_CHARS],
            "input": answer.prompt_tokens,
            "output": answer.completion_tokens,
            "seconds": answer.seconds,
            "keep_seconds": max(KEPT_FOR, question.share_for or timedelta()).total_seconds(),
        }


def answer_to_keep(call: Call, answered: object, usage: Usage) -> AnswerToKeep | None:
    """Return what to hand to ``Admission.settle`` for a call; None if it does not answer the current question.

    ``answered`` is what was read from its body. An answer that is not valid is asked again, and is not kept.
    """
    from workers.llm.structured import InvalidAnswerError, validated  # noqa: PLC0415 - importing openai costs a second
    from workers.llm.wire import Completion  # noqa: PLC0415 - likewise

    asking = being_asked.get()
    if asking is None or asking.question.into is None or not isinstance(answered, Completion):
        return None
    if answered.is_cut:  # cut off: asked again with a larger bound
        return None
    try:
        validated(answered.text, asking.question.into)
    except InvalidAnswerError:
        return None
    answer = KeptAnswer(
        raw=answered.raw,
        model=answered.model or call.model,
        prompt_tokens=usage.input_tokens,
        completion_tokens=usage.output_tokens,
        seconds=usage.seconds,
        path=asking.path,
    )
    asking.kept = AnswerToKeep(id=call.id, question=asking.question, answer=answer)
    return asking.kept


def question_row(question: Question) -> dict[str, Any]:
    """Return what tells a question and its run."""
    return {
        "fingerprint": question.owned.hex(),
        "job_id": question.caller.job_id,
        "version": question.caller.version,
        "shared": question.is_shared,
    }


def answers_json(answers: Sequence[AnswerToKeep]) -> str:
    """Return what ``llm.keep_answers`` reads."""
    rows = (answer.row() for answer in answers)
    return to_json([row for row in rows if row is not None]).decode()
