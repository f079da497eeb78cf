"""An answer as it is kept, and how it is read again. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

from pydantic import BaseModel
from pydantic_core import to_json

from workers.llm.kept.questions import Question
from workers.runtime.handler.errors import Permanent, Retryable
from workers.runtime.handler.ports import Answer
from workers.runtime.handler.rule_based import NOTE

T = TypeVar("T", bound=BaseModel)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptAnswer:
    """An answer as it is kept: the body as it came (``raw``), who gave it and what it used.

    ``path`` is what was tried before it on its route. ``job_id`` is the job that paid for it, if it was found.
    """

    raw: Mapping[str, Any]
    model: str
    prompt_tokens: int | None
    completion_tokens: int | None
    seconds: float
    path: Sequence[Mapping[str, str]] = ()
    job_id: UUID | None = None

    @classmethod
    def of(cls, answer: Answer[Any], *, path: Sequence[Mapping[str, str]] = ()) -> "KeptAnswer":
        """Return what is kept of ``answer``."""
        return cls(
            raw=answer.raw,
            model=answer.model,
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
            seconds=answer.seconds,
            path=path,
        )


def restore(found: KeptAnswer, question: Question, into: type[T]) -> Answer[T] | None:
    """Return a kept answer as ``into``, marked if another job paid for it; None if it is not valid.

    It is read again as it was when it came. If the form has changed since then, it may not be valid any more.
    """
    try:
        value = value_of(found.raw, into)
    except (ValueError, Permanent, Retryable):  # also pydantic's, and InvalidAnswerError
        return None
    return Answer(
        value=value,
        raw=found.raw,
        model=found.model,
        prompt_tokens=found.prompt_tokens,
        completion_tokens=found.completion_tokens,
        seconds=found.seconds,
        path=found.path,
        cached_from=None if found.job_id == question.caller.job_id else found.job_id,
    )


def value_of(raw: Mapping[str, Any], into: type[T]) -> T:
    """Return the valid answer in a body; raise what is wrong with it."""
    if raw.get("note") == NOTE:  # a rule's answer
        return into.model_validate(raw.get("evaluation"))
    from workers.llm.structured import validated  # noqa: PLC0415 - importing openai costs a second
    from workers.llm.wire import read  # noqa: PLC0415 - likewise

    completion = read(to_json(raw).decode())
    return validated(completion.text, into)
