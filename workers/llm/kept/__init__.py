"""Answers that were paid for and are kept: found again by the next run of a job, and by whoever may share them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

from workers.llm.calls import Caller


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question as it is kept: exactly the same one has the same ``fingerprint``, and no other.

    ``share_for``: how long an answer may be shared with other jobs of the same owner; None: with no other job. The
    route, and the provider and model that would be asked first, are those of the ledger's row.
    """

    fingerprint: bytes
    caller: Caller
    route: str
    provider: str
    model: str
    share_for: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptAnswer:
    """An answer as it is kept: the body as it came over the wire (``raw``), and what is told of it."""

    raw: Mapping[str, Any]
    model: str
    prompt_tokens: int | None
    completion_tokens: int | None
    seconds: float
    path: Sequence[Mapping[str, str]] = ()


class Kept(Protocol):
    """Where answers are kept."""

    async def find(self, question: Question) -> KeptAnswer | None:
        """Return what this job, or one that shares with it, has paid for already.

        None: whoever asked is the one who asks the model now, and then calls ``keep`` or ``drop``. Others who ask the
        same meanwhile wait here, or are told to come again by RateLimited.
        """

    async def keep(self, question: Question, answer: KeptAnswer) -> None:
        """Keep the answer to a question, once it is valid."""

    async def drop(self, question: Question) -> None:
        """Let another ask: this question got no answer."""
