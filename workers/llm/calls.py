"""One call of a provider, as admission and the ledger see it: for whom, how much at most, how much in fact. Pure."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, Protocol
from uuid import UUID

from workers.runtime.handler.context import current_job, current_run
from workers.runtime.handler.errors import RateLimited

if TYPE_CHECKING:
    from workers.llm.kept.settling import AnswerToKeep

Kind = Literal["chat", "embeddings"]
Lane = Literal["normal", "batch"]


def new_call_id() -> UUID:
    """Return a time-ordered id (version 7), made here: a reservation whose answer was lost is found by it."""
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds & (2**48 - 1)) << 80 | int.from_bytes(os.urandom(10))
    return UUID(int=value & ~(0xF << 76) & ~(0x3 << 62) | 0x7 << 76 | 0x2 << 62)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """For whom a call is made: the run, and the owner, project and profile of its job. All None outside of runs."""

    stage: str | None = None
    job_id: UUID | None = None
    version: int | None = None
    attempt: int | None = None
    owner_id: UUID | None = None
    project_id: UUID | None = None
    profile_id: UUID | None = None


def current_caller() -> Caller:
    """Return for whom the current task makes calls."""
    run, job = current_run.get(), current_job.get()
    if run is None:
        return Caller()
    return Caller(
        stage=run.stage,
        job_id=run.job_id,
        version=run.version,
        attempt=run.attempt,
        owner_id=getattr(job, "owner_id", None),
        project_id=getattr(job, "project_id", None),
        profile_id=getattr(job, "profile_id", None),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call before it is made. ``input_tokens`` is an estimate, ``output_tokens`` the most that is asked for.

    ``provider`` is its name in ``llm.providers``, ``model`` the one that is asked, ``route`` and ``step`` say by which
    path of a fallback it was chosen. ``batch_id`` is the batch that carries it, in the batch lane.
    """

    id: UUID = field(default_factory=new_call_id)
    caller: Caller
    kind: Kind
    provider: str
    model: str
    route: str
    step: int = 0
    input_tokens: int
    output_tokens: int = 0
    lane: Lane = "normal"
    batch_id: UUID | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a call used by the provider's own count, None where it does not say; ``raw`` is its usage object."""

    input_tokens: int | None
    output_tokens: int | None
    cached_input_tokens: int | None = None
    reasoning_tokens: int | None = None
    raw: Mapping[str, Any] | None = None
    served_model: str | None = None
    seconds: float


class NotAdmittedError(RateLimited):
    """A limit, a cooldown or a budget keeps a call back. Nothing was counted. ``delay`` says for how long.

    ``limit`` names what refused: ``requests per minute of provider openai``. ``is_budget``: money or tokens are spent.
    ``batch_may``: the batch lane may go on. ``gives_back``: it may end before ``delay`` has passed, as calls that are
    under way end. ``key`` is the same for all calls that the same limit keeps back. ``others_decide`` is False if the
    call itself can never be admitted, or if the provider refuses it: then a job that makes no progress is bounded.
    """

    def __init__(
        self,
        reason: str,
        *,
        delay: timedelta,
        limit: str,
        is_budget: bool = False,
        batch_may: bool = False,
        gives_back: bool = False,
        key: str | None = None,
        others_decide: bool = True,
    ) -> None:
        super().__init__(reason, delay=delay, others_decide=others_decide)
        self.limit = limit
        self.is_budget = is_budget
        self.batch_may = batch_may
        self.gives_back = gives_back
        self.key = key or limit


class CachedCalls(Protocol):
    """The ledger of calls that were not made, because an answer or a vector was there already."""

    async def record_cached(self, call: Call, usage: Usage) -> None:
        """Record a call that was answered without a provider: it costs nothing and is under no limit."""


class Admission(CachedCalls, Protocol):
    """Admits calls and keeps the ledger of them, for all processes together."""

    async def reserve(self, call: Call) -> None:
        """Reserve what ``call`` may use, in all of its limits and budgets or in none; raise NotAdmittedError."""

    async def settle(self, call: Call, usage: Usage, *, keep: "AnswerToKeep | None" = None) -> None:
        """Record what a reserved call used, and keep its answer. Returns once both are committed."""

    async def fail(self, call: Call, reason: str, *, charged: bool) -> None:
        """Record that a call gave no answer. ``charged``: it may be paid for, so its estimate stays counted."""

    async def release(self, call: Call) -> None:
        """Give back the reservation of a call that was not made."""

    async def cool_down(self, provider: str, model: str, *, delay: timedelta, reason: str) -> None:
        """Let nobody call ``model`` of ``provider`` for ``delay``: it has refused a call (429)."""
