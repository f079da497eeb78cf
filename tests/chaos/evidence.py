"""What a run records outside Postgres. The checker reads it afterwards."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from uuid import UUID

# The events that a worker logs, once for each of its runs, if somebody else changed the job.
LOST = ("stale_write_rejected", "run_stopped")

Span = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request to the fake provider. Times are seconds since the epoch; everything runs on one machine.

    ``body`` is equal for equal requests. ``again``: the request quotes an invalid answer and asks once
    more. ``limit`` is how many tokens the answer may have. ``input_tokens`` and ``output_tokens`` are what the provider
    charges for the call; None if it charges nothing.
    """

    job_id: UUID
    key: str
    answer: str
    started_at: float
    ended_at: float | None
    body: str = ""
    again: bool = False
    limit: int | None = None
    model: str = ""
    input_tokens: int | None = None
    output_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LostRun:
    """One event of ``LOST`` about one run, from the worker or log ``said_by``.

    ``job_id`` is None if the line cannot be read.
    """

    how: str
    job_id: UUID | None
    fence: int
    said_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One callback as it arrived: ``id`` is its ``webhook-id``. ``is_accepted``: the answer was 2xx."""

    job_id: UUID
    id: str
    state: str
    version: int
    is_signed: bool
    is_accepted: bool


@dataclass(slots=True)
class Stream:
    """What a client of a stream got: jobs and versions, in order. It goes on after the last id whenever it broke off.

    ``owned``: the jobs of the tenant that follows; None: an operator follows all jobs.
    """

    shown: list[tuple[UUID, int]] = field(default_factory=list)
    owned: set[UUID] | None = None


@dataclass(slots=True)
class Evidence:
    """What is known of a run from outside.

    - ``committed``: the jobs with an answered enqueue, with their stages.
    - ``unsure``: idempotency keys of enqueues without an answer. Each may have made one job, and no more.
    - ``cancelled``: when each cancel was acknowledged.
    - ``requests``: the number of calls that the provider counted. ``calls``: those that name their job, in order.
    - ``lost_runs``: the runs that workers logged as stopped or rejected.
    - ``spoke_until``: until when a worker could log this, if its transitions do not show it.
    - ``isolated``: the times in which any worker may have been isolated: frozen, or without contact to Postgres.
    - ``isolated_workers``: the times in which only this worker was isolated.
    - ``aged``: jobs with a ``completed_at`` that was moved back on purpose, so that prune finds them.
    - ``with_callback``: jobs that asked for a callback. ``messages``: the callbacks that arrived.
    - ``streams``: what the clients of streams got, by the name of the client.
    - ``raised``: budgets that an operator raised: until when, in seconds since the epoch, they had how many tokens.
    """

    committed: dict[UUID, str] = field(default_factory=dict)
    unsure: dict[str, str] = field(default_factory=dict)
    cancelled: dict[UUID, float] = field(default_factory=dict)
    requests: int = 0
    calls: list[Call] = field(default_factory=list)
    lost_runs: list[LostRun] = field(default_factory=list)
    spoke_until: dict[UUID, float] = field(default_factory=dict)
    isolated: list[Span] = field(default_factory=list)
    isolated_workers: dict[UUID, list[Span]] = field(default_factory=dict)
    aged: set[UUID] = field(default_factory=set)
    raised: dict[str, tuple[float, int]] = field(default_factory=dict)
    with_callback: set[UUID] = field(default_factory=set)
    messages: list[Message] = field(default_factory=list)
    streams: dict[str, Stream] = field(default_factory=dict)

    def isolations(self) -> Iterator[tuple[float, float, str | None]]:
        """Yield each time of isolation with the worker as transitions name it; None: it may have been any worker."""
        yield from ((since, until, None) for since, until in self.isolated)
        yield from ((*span, f"worker:{worker}") for worker, spans in self.isolated_workers.items() for span in spans)


def lost_runs(lines: Iterable[str], *, said_by: str) -> Iterator[LostRun]:
    """Yield the lost runs of a worker's log.

    SIGKILL may cut the last line. Any other line that cannot be read is yielded without a job.
    """
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
