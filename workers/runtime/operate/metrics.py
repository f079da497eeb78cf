"""What the metrics of the whole system read: counts that are kept, a few rows of each stage, no table as a whole."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from workers.runtime.database import Raw
from workers.runtime.measuring import BOUNDS, Measured
from workers.runtime.operate.known import check_stage, job_models
from workers.runtime.refusals import Problem, Refusal
from workers.runtime.store.counts import PeriodCounts, StateCount, read_counts, read_periods
from workers.runtime.store.lists import prepare_search
from workers.runtime.store.measurements import (
    ActionCount,
    become_operator,
    labels_of,
    read_action_counts,
    read_measurements,
)
from workers.runtime.store.oldest import OldestWait, read_oldest_waits
from workers.runtime.store.read import read_leader_silence
from workers.runtime.store.workers import WorkerView, list_workers

__all__ = [
    "BOUNDS",
    "MAX_PERIODS",
    "ActionCount",
    "Measured",
    "OldestWait",
    "PeriodCounts",
    "StateCount",
    "SystemMetrics",
    "labels_of",
    "list_periods",
    "read_metrics",
]

MAX_PERIODS = 1_500


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemMetrics:
    """The state of the whole system at one time."""

    counts: Sequence[StateCount] = field(default_factory=list)
    waits: Sequence[OldestWait] = field(default_factory=list)
    actions: Sequence[ActionCount] = field(default_factory=list)
    measured: Sequence[Measured] = field(default_factory=list)
    workers: Sequence[WorkerView] = field(default_factory=list)
    leader_silence: timedelta | None = None


async def read_metrics(conn: Raw) -> SystemMetrics:
    """Return the state of the system. Until its transaction ends, the connection acts as an operator."""
    job_models()  # models beside their handlers are loaded
    await become_operator(conn)
    await prepare_search(conn)
    return SystemMetrics(
        counts=await read_counts(conn),
        waits=await read_oldest_waits(conn),
        actions=await read_action_counts(conn),
        measured=await read_measurements(conn),
        workers=await list_workers(conn),
        leader_silence=await read_leader_silence(conn),
    )


async def list_periods(
    conn: Raw, *, since: datetime, until: datetime, period: timedelta, stage: str | None = None
) -> list[PeriodCounts]:
    """Return what happened to jobs, for plots: by period and by stage, or of one ``stage``.

    Raise UnknownStageError, and Refusal for a period that is not whole minutes or for too many of them.
    """
    await check_stage(conn, stage)
    if period < timedelta(minutes=1) or period % timedelta(minutes=1):
        raise Refusal(Problem("period", "must be whole minutes", f"{period.total_seconds():g} s"))
    if until <= since:
        raise Refusal(Problem("to", f"must be after from ({since.isoformat()})", until.isoformat()))
    if (until - since) / period > MAX_PERIODS:
        number = f"{(until - since) / period:,.0f} of them"
        raise Refusal(Problem("period", f"must be long enough for at most {MAX_PERIODS:,} periods", number))
    return await read_periods(conn, since=since, until=until, period=period, stages=None if stage is None else [stage])
