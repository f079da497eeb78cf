"""Processes that end at a named step of their work, a few at a time, while the rest of the system runs."""

import json
import time
from base64 import b64decode
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from uuid import UUID

from redis import Redis

from tests.e2e.system import Role, System, Transition
from workers.runtime.failpoints import EXIT_CODE, VARIABLE, Point

MAX_CRASHING_AT_ONCE = 6
ATTEMPTS = 6
# The checkpoints of a long run. tests/e2e/test_ingest_crashes.py crashes there.
KEEPING: tuple[Point, ...] = ("checkpoint.before", "checkpoint.after")
# The end of a wait. tests/e2e/test_wait_crashes.py crashes there.
WAIT_ENDS: tuple[Point, ...] = ("decide.before", "decide.after", "expire.before", "expire.after")
# The admission and the ledger of calls. tests/integration/llm/admission/test_account_crashes.py crashes there.
ACCOUNTING: tuple[Point, ...] = ("admit.before", "admit.after", "account.before", "account.after")
# The batch lane. tests/integration/llm/batch_lane/test_batch_crashes.py crashes there.
BATCHING: tuple[Point, ...] = (
    "batch_ask.before",
    "batch_ask.after",
    "batch_gather.before",
    "batch_gather.after",
    "batch_upload.before",
    "batch_upload.after",
    "batch_create.before",
    "batch_create.after",
    "batch_take.before",
    "batch_take.after",
    "batch_wake.before",
    "batch_wake.after",
)
FEED_SECONDS = 0.5
# The longest time without a crash: on a machine that starts many processes, each start may be slow.
REACH_SECONDS = 60.0
# No more jobs are added while this many wait, so that a slow run does not get more jobs.
MAX_WAITING_JOBS = 16
WAITING = "SELECT count(*) FROM proving.plain_jobs WHERE status = 'pending' AND due_at IS NULL"
# Dispatched and not claimed.
STRANDED = "SELECT count(*) FROM proving.plain_jobs WHERE status = 'pending' AND dispatched_at IS NOT NULL"


Histories = dict[UUID, list[Transition]]


@dataclass(slots=True)
class Crash:
    """One process and the point where it ends. ``stranded`` jobs had a ticket and no claim right after that."""

    point: Point
    role: Role
    worker_id: UUID | None = None
    stranded: int = 0

    def assert_there(self) -> None:
        """Fail unless the process ended at its point."""
        code = self.role.exit_code(within=0.1)
        assert code == EXIT_CODE, f"{self.point}: {self.role.kind} {self.role.pid} exited with {code}"
        assert self.role.has_logged(f"failpoint {self.point} reached")


@dataclass(slots=True)
class Crashes:
    """Every crash of one kind of role, and the jobs of that time.

    ``jobs`` are of the plain stage, ``scoring`` are scoring jobs, ``waiting`` are old jobs that are not due. ``keys``
    were sent by a service in Celery messages; ``taken`` are the keys of messages that a worker took without inserting
    the row. At the end ``histories`` has those of ``jobs`` and ``scoring``.
    """

    by_point: dict[Point, Crash] = field(default_factory=dict)
    jobs: list[UUID] = field(default_factory=list)
    scoring: list[UUID] = field(default_factory=list)
    waiting: list[UUID] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)
    histories: Histories = field(default_factory=dict)

    def steps_of(self, crash: Crash) -> list[Transition]:
        """Return every transition that the dead worker wrote."""
        return [s for steps in self.histories.values() for s in steps if s.changed_by == f"worker:{crash.worker_id}"]

    def after_claims_of(self, crash: Crash) -> list[Transition]:
        """Return the transition after each claim of the dead worker."""
        found = []
        for steps in self.histories.values():
            for claim, following in pairwise(steps):
                if claim.change_action == "claim" and claim.changed_by == f"worker:{crash.worker_id}":
                    found.append(following)
        return found


@dataclass(slots=True)
class Schedule:
    """A schedule whose ticks crash beats, and what each beat left. Only times before ``until`` count."""

    name: str
    until: datetime
    crashes: dict[Point, Crash] = field(default_factory=dict)
    jobs: dict[Point, list[UUID]] = field(default_factory=dict)

    def fired(self, system: System) -> list[UUID]:
        """Return the jobs of the times that have fired."""
        ticks = "SELECT job_id FROM runtime.ticks WHERE schedule = %s AND scheduled_for <= %s"
        return [row[0] for row in system.ask(ticks, self.name, self.until)]


def arm(system: System, kind: str, point: Point, *, nth: int = 1, **options: object) -> Role:
    """Start a role that dies at its ``nth`` arrival at ``point``."""
    role = system.start(kind, environment={VARIABLE: f"{point}:{nth}"}, **options)
    role.ended = True  # it will end on purpose
    return role


def crash_all(
    system: System, points: Sequence[Point], *, start: Callable[[Point], Role], feed: Callable[[], None]
) -> dict[Point, Crash]:
    """Start a crashing role per point, a few at a time, and add jobs to the system until each role has ended."""
    waiting, alive = deque(points), list[Crash]()
    crashes: dict[Point, Crash] = {}
    last_death, next_feed = time.monotonic(), 0.0
    while waiting or alive:
        while waiting and len(alive) < MAX_CRASHING_AT_ONCE:
            point = waiting.popleft()
            crashes[point] = Crash(point, start(point))
            alive.append(crashes[point])
        for crash in [crash for crash in alive if not crash.role.alive]:
            _note(system, crash)
            alive.remove(crash)
            last_death = time.monotonic()
        if time.monotonic() >= next_feed:
            if system.ask(WAITING)[0][0] < MAX_WAITING_JOBS:
                feed()
            next_feed = time.monotonic() + FEED_SECONDS
        assert time.monotonic() < last_death + REACH_SECONDS, f"never reached: {[crash.point for crash in alive]}"
        system.check_alive()
        time.sleep(0.02)
    return crashes


def _note(system: System, crash: Crash) -> None:
    """Record the state that a process left, right after its end."""
    crash.stranded = system.ask(STRANDED)[0][0]
    if crash.role.kind == "worker":
        crash.worker_id = system.worker_id(crash.role)
        assert crash.worker_id, f"{crash.point}: worker {crash.role.pid} ended before its first heartbeat"


def enqueue_some(system: System, jobs: int = 16) -> list[UUID]:
    """Enqueue jobs with an effect that can be counted."""
    return system.enqueue("proving.plain", [{"act": "write", "seconds": 0.02}] * jobs)


def await_ends(system: System, jobs: list[UUID]) -> None:
    """Return when each of these jobs is in a terminal state."""
    ended = "SELECT count(*) FROM runtime.jobs WHERE id = ANY (%s) AND status IN ('completed', 'failed')"
    system.wait(lambda: system.ask(ended, jobs) == [(len(jobs),)], f"all {len(jobs)} jobs ended", seconds=60.0)


def assert_lawful(system: System, jobs: list[UUID], histories: Histories) -> None:
    """Fail unless each job ended once, has versions without a gap, and started once and once more per rescue.

    A job may fail only if its last attempt lost its worker.
    """
    ends = {job: histories[job][-1] for job in jobs}
    for state in ("completed", "failed"):
        system.assert_settled_once([job for job, end in ends.items() if end.new_state == state], state)
    for job, end in ends.items():
        done = [step.change_action for step in histories[job]]
        assert done.count("claim") == done.count("rescue") + (end.new_state == "completed"), (job, done)
        assert done.count("claim") <= ATTEMPTS, (job, done)
        assert end.new_state == "completed" or (done[-1], done.count("claim")) == ("rescue", ATTEMPTS), (job, done)


def assert_effects_once(system: System, jobs: list[UUID]) -> None:
    """Fail unless completed jobs have had their effect once, and other jobs have had none."""
    wrong = "SELECT count(*) FROM proving.plain_jobs WHERE id = ANY (%s) AND effects <> (status = 'completed')::int"
    assert system.ask(wrong, jobs) == [(0,)]


def unacknowledged(system: System) -> str:
    """Return the bodies of all messages that were taken from a queue and not acknowledged."""
    with Redis.from_url(system.redis_url) as redis:
        kept = [json.loads(message)[0] for message in redis.hvals("unacked")]
    return "\n".join(b64decode(message["body"]).decode() for message in kept)


def let_time_pass(system: System, seconds: float) -> None:
    """Make every unacknowledged message in Redis older by ``seconds``."""
    with Redis.from_url(system.redis_url) as redis:
        for tag, taken_at in redis.zrange("unacked_index", 0, -1, withscores=True):
            redis.zadd("unacked_index", {tag: taken_at - seconds})
