"""What a run under faults writes down beside what Postgres keeps, for the checker to judge afterwards."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from uuid import UUID

# What a worker logs once for each of its runs that it finds moved on by someone else.
LOST = ("stale_write_rejected", "run_stopped")

Span = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request that the fake provider saw. Times are seconds since the epoch; everything runs on one machine.

    ``body`` is the same for requests that ask the same; ``again`` tells a question that quotes an invalid answer.
    """

    job_id: UUID
    key: str
    answer: str
    started_at: float
    ended_at: float | None
    body: str = ""
    again: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LostRun:
    """What ``said_by``, a worker or its log, said once about one of its runs: see ``LOST``.

    A line that cannot be read names no job.
    """

    how: str
    job_id: UUID | None
    fence: int
    said_by: str


@dataclass(slots=True)
class Evidence:
    """The outside view of a run.

    ``committed``: the stage of every job whose enqueue was answered. ``unsure``: idempotency keys of enqueues whose
    answer was lost: each may have become one job, and only one. ``cancelled``: when each acknowledged cancel was
    acknowledged. ``requests``: how many calls the provider counted; ``calls``: those that name their job, in order.
    ``lost_runs``: what workers said they stopped or rejected; ``spoke_until``: until when a worker lived to say so,
    where its transitions do not show it. ``deaf``: from when to when any worker may have been unable to hear or to show
    signs of life: frozen, or cut off from Postgres; ``deaf_alone``: when only this one was. ``aged``: jobs whose
    ``completed_at`` was moved back on purpose, to be pruned.
    """

    committed: dict[UUID, str] = field(default_factory=dict)
    unsure: dict[str, str] = field(default_factory=dict)
    cancelled: dict[UUID, float] = field(default_factory=dict)
    requests: int = 0
    calls: list[Call] = field(default_factory=list)
    lost_runs: list[LostRun] = field(default_factory=list)
    spoke_until: dict[UUID, float] = field(default_factory=dict)
    deaf: list[Span] = field(default_factory=list)
    deaf_alone: dict[UUID, list[Span]] = field(default_factory=dict)
    aged: set[UUID] = field(default_factory=set)

    def deafness(self) -> Iterator[tuple[float, float, str | None]]:
        """Yield each time of deafness with the worker that was deaf, as transitions name it; None: any may have been"""
        yield from ((since, until, None) for since, until in self.deaf)
        yield from ((*span, f"worker:{worker}") for worker, spans in self.deaf_alone.items() for span in spans)


def lost_runs(lines: Iterable[str], *, said_by: str) -> Iterator[LostRun]:
    """Read a worker's log. The last line may be cut, by SIGKILL; any other that cannot be read is yielded as such."""
    log = list(lines)
    for number, line in enumerate(log, start=1):
        if not any(how in line for how in LOST):
            continue
        try:
            entry = json.loads(line)
            if entry["event"] in LOST:
                yield LostRun(
                    how=entry["event"], job_id=UUID(entry["job_id"]), fence=int(entry["version"]), said_by=said_by
                )
        except (ValueError, KeyError, TypeError):
            if number < len(log):
                yield LostRun(how=line[:200], job_id=None, fence=0, said_by=said_by)
