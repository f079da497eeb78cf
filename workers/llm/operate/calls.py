"""The ledger, call by call: list them with filters, and those of one job by attempt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from models.llm.calls import Call
from workers.llm.ledger.spend import SpendFilter
from workers.llm.operate.refusals import LlmRefusal, Unknown
from workers.runtime.refusals import Problem, quoted

STATES = ("reserved", "settled", "unpriced", "orphaned", "cached", "failed")
MAX_CALLS = 10_000
_ANSWERED = frozenset({"settled", "unpriced", "cached"})


@dataclass(frozen=True, slots=True, kw_only=True)
class CallView:
    """One call, as the ledger has it. ``took`` is None while it is under way.

    ``usd`` is what it cost, None where its price is not known; until it has ended, and for a call that was orphaned,
    ``estimated_usd`` is what counts. Prices are per million tokens, of the moment of the call.
    """

    id: UUID
    created_at: datetime
    state: str
    stage: str | None
    job_id: UUID | None
    version: int | None
    attempt: int | None
    owner_id: UUID | None
    project_id: UUID | None
    profile_id: UUID | None
    worker_id: UUID | None
    route: str
    step: int
    provider: str
    model: str
    served_model: str | None
    kind: str
    lane: str
    batch_id: UUID | None
    estimated_input: int
    max_output: int
    estimated_usd: Decimal | None
    input_tokens: int | None
    cached_input_tokens: int | None
    output_tokens: int | None
    reasoning_tokens: int | None
    usage: Mapping[str, Any] | None
    input_price: Decimal | None
    cached_price: Decimal | None
    output_price: Decimal | None
    usd: Decimal | None
    settled_at: datetime | None
    took: timedelta | None
    failure: str | None

    @property
    def counted_usd(self) -> Decimal | None:
        """What the call counts for: its cost, or its estimate as long as nobody knows better; None without a price."""
        return self.estimated_usd if self.usd is None and self.state in {"reserved", "orphaned"} else self.usd


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptView:
    """What the calls of one run of a job used together; ``attempt`` counts from 1, None where it is not known.

    ``unpriced`` calls cost money that nobody knows: they are not in ``usd``.
    """

    attempt: int | None
    version: int | None
    calls: int
    cached: int
    failed: int
    orphaned: int
    unpriced: int
    input_tokens: int
    output_tokens: int
    usd: Decimal
    answered_by: Sequence[str]


async def list_calls(
    session: AsyncSession, these: SpendFilter, *, state: str | None = None, limit: int = 50, after: UUID | None = None
) -> list[CallView]:
    """Return up to ``limit`` calls, newest first; ``after`` is the last id of the page before."""
    if state is not None and state not in STATES:
        raise LlmRefusal(Problem("state", f"must be one of {', '.join(STATES)}", quoted(state)))
    query = select(Call).where(*these.conditions())
    if state is not None:
        query = query.where(Call.state == state)
    if after is not None:
        query = query.where(Call.id < after)
    query = query.order_by(Call.id.desc()).limit(limit)  # ids are ordered by time, and have an index
    return [_view(row) for row in await session.scalars(query)]


async def show_call(session: AsyncSession, call_id: UUID) -> CallView:
    """Return one call; raise Unknown."""
    found = (await session.scalars(select(Call).where(Call.id == call_id))).one_or_none()
    if found is None:
        raise Unknown(f"call {call_id} is not in the ledger (any more)")
    return _view(found)


async def calls_of_job(session: AsyncSession, job_id: UUID, *, limit: int = MAX_CALLS) -> list[CallView]:
    """Return the calls of a job in their order."""
    query = select(Call).where(Call.job_id == job_id).order_by(Call.created_at, Call.id).limit(limit)
    return [_view(row) for row in await session.scalars(query)]


def attempts_of(calls: Sequence[CallView]) -> list[AttemptView]:
    """Return what each run of a job used, in their order. Pure."""
    runs: dict[tuple[int, int], list[CallView]] = {}
    for call in calls:
        runs.setdefault((call.version or 0, call.attempt or 0), []).append(call)
    return [_attempt(run) for _, run in sorted(runs.items())]


def _attempt(calls: Sequence[CallView]) -> AttemptView:
    counted = [call for call in calls if call.state not in {"failed", "cached"}]
    answered = (
        f"{call.provider}/{call.served_model or call.model}" for call in calls if call.settled_at and not call.failure
    )
    return AttemptView(
        attempt=calls[0].attempt,
        version=calls[0].version,
        calls=len(calls),
        cached=sum(call.state == "cached" for call in calls),
        failed=sum(call.state == "failed" for call in calls),
        orphaned=sum(call.state == "orphaned" for call in calls),
        unpriced=sum(call.counted_usd is None for call in counted),
        input_tokens=sum(_or(call.input_tokens, call.estimated_input) for call in counted),
        output_tokens=sum(_or(call.output_tokens, call.max_output) for call in counted),
        usd=sum((call.counted_usd or Decimal(0) for call in counted), Decimal(0)),
        answered_by=sorted(answered),
    )


def _or(used: int | None, estimate: int) -> int:
    return estimate if used is None else used


def _view(row: Call) -> CallView:
    named = {name: getattr(row, name) for name in CallView.__slots__ if name != "took"}
    return CallView(**named, took=None if row.seconds is None else timedelta(seconds=row.seconds))
