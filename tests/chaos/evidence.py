"""What a run under faults writes down beside what Postgres keeps, for the checker to judge afterwards."""

from dataclasses import dataclass, field
from uuid import UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request that the fake provider saw. Times are seconds since the epoch; everything runs on one machine."""

    job_id: UUID
    key: str
    answer: str
    started_at: float
    ended_at: float | None


@dataclass(slots=True)
class Evidence:
    """The outside view of a run.

    ``committed``: the stage of every job whose enqueue was answered. ``unsure``: idempotency keys of enqueues whose
    answer was lost: each may have become one job, and only one. ``cancelled``: when each acknowledged cancel was
    acknowledged. ``calls``: the provider's ledger, in order. ``stale_rejections``: how many writes workers said they
    rejected; ``stopped_runs``: how many runs they said they stopped; ``all_told``: whether every worker lived, and
    heard enough, to say all of it. ``deaf``: from when to when some worker could neither hear nor show signs of life:
    frozen, or cut off from Postgres. ``aged``: jobs whose ``completed_at`` was moved back on purpose, to be pruned.
    """

    committed: dict[UUID, str] = field(default_factory=dict)
    unsure: dict[str, str] = field(default_factory=dict)
    cancelled: dict[UUID, float] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    stale_rejections: int = 0
    stopped_runs: int = 0
    all_told: bool = False
    deaf: list[tuple[float, float]] = field(default_factory=list)
    aged: set[UUID] = field(default_factory=set)
