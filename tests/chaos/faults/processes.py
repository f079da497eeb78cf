"""Worker processes that are killed, frozen or drained, or have a wrong clock."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from uuid import UUID

from tests.chaos.arena import (
    GRACE_SECONDS,
    LEASE_SECONDS,
    RESCUE_TICK_SECONDS,
    RUNS,
    START_SECONDS,
    Arena,
    BrokenPromise,
)
from tests.chaos.crew import Post
from tests.chaos.faults import fault
from tests.chaos.workload import PRIORITY_PROBE
from tests.e2e.system import Role

MAX_RESCUE_SECONDS = LEASE_SECONDS + RESCUE_TICK_SECONDS
# A rescued job is picked, published and claimed within one more second.
MAX_RERUN_SECONDS = MAX_RESCUE_SECONDS + 1.0
# After the grace, the worker releases the jobs that are left and exits.
MAX_DRAIN_SECONDS = GRACE_SECONDS + 1.0
HOUR = 3600
# Which worker takes a batch is random, so several rounds are needed.
ROUNDS = 5
TIMES = ("started_at", "completed_at", "updated_at", "due_at", "deadline_at")


@fault()
def worker_killed(arena: Arena) -> None:
    """SIGKILL of one worker during a call:

    its jobs are rescued within the lease and one second, run again within one more second, and spend one attempt.
    """
    _kill(arena, [arena.draw.choice(arena.crew.of("worker"))])


@fault(brief=False)
def all_workers_killed(arena: Arena) -> None:
    """SIGKILL of every worker during a call:

    all their jobs are rescued within the lease and one second, and run again within one more second or when a new
    worker has started.
    """
    _kill(arena, arena.crew.of("worker"))


def _kill(arena: Arena, victims: list[Post]) -> None:
    ids = arena.crew.worker_ids()
    workers = [worker for worker, role in ids.items() if role in [post.role for post in victims]]
    _occupy(arena, workers, seconds=2.0)
    for post in victims:
        post.role.kill()
    killed_at = time.time()
    held = [job for worker in workers for job in arena.running_under(worker)]
    arena.crew.refill()
    freed_within = arena.granted(MAX_RESCUE_SECONDS) + 5
    arena.wait(lambda: not any(map(arena.running_under, workers)), "their jobs are freed", seconds=freed_within)
    rescued = arena.steps(held, "rescue", since=killed_at)
    arena.promise(rescued, "nothing was rescued")
    # A statement that the worker sent before it died may be committed after its death. A cancel needs no rescue.
    moved = arena.ask(
        f"SELECT id FROM ({RUNS}) AS runs WHERE worker = ANY (%s) AND id = ANY (%s) AND ended > to_timestamp(%s)"
        " AND (action IN ('rescue', 'cancel') OR ended_by = worker)",
        [f"worker:{worker}" for worker in workers],
        held,
        killed_at - 1.0,
    )
    left = set(held) - {job for (job,) in moved}
    arena.promise(not left, f"{len(left)} of a dead worker's jobs were not rescued")
    arena.promise_within(max(rescued.values()) - killed_at, MAX_RESCUE_SECONDS, "a dead worker's last job is rescued")
    _promise_run_again(arena, list(rescued), killed_at)
    arena.await_crew()


def _promise_run_again(arena: Arena, rescued: list[UUID], killed_at: float) -> None:
    """Check when the last of these jobs was claimed again; time without any ready worker does not count."""
    # A job is due at once only after its first rescue. Only urgent jobs without a limit do not wait for their turn.
    rows = arena.ask(
        "SELECT id FROM proving.plain_jobs AS job WHERE id = ANY (%s) AND priority = %s AND NOT EXISTS (SELECT"
        " FROM runtime.transitions WHERE job_id = job.id AND change_action IN ('retry', 'rescue')"
        " AND created_at < to_timestamp(%s))",
        rescued,
        PRIORITY_PROBE,
        killed_at,
    )
    due = {job for (job,) in rows}
    arena.promise(due, "nothing that was rescued was due at once")

    def claimed() -> dict[UUID, float] | None:
        found = arena.steps(list(due), "claim", since=killed_at)
        cancelled = arena.steps(list(due), "cancel", since=killed_at)
        return found if due <= found.keys() | cancelled.keys() else None

    again = arena.wait(claimed, "its jobs run again", seconds=START_SECONDS)
    # A worker is ready when it has completed a job: a new process needs its first second for imports.
    first = (
        "SELECT extract(epoch FROM min(created_at))::float8 FROM runtime.transitions"
        " WHERE change_action = 'complete' AND changed_by = ANY (%s) AND created_at > to_timestamp(%s)"
    )

    def at_work() -> float | None:
        ids = [f"worker:{worker}" for worker in arena.crew.worker_ids()]
        return arena.ask(first, ids, killed_at)[0][0]  # type: ignore[no-any-return]  # the statement returns a float

    nobody = max(0.0, arena.wait(at_work, "a worker is ready", seconds=60) - (killed_at + MAX_RESCUE_SECONDS))
    arena.measure_fresh_job()  # new processes start at the same time, and the backlog is worked off
    arena.promise_within(
        max(again.values()) - killed_at - nobody, MAX_RERUN_SECONDS, "a dead worker's last job runs again"
    )


def _occupy(arena: Arena, workers: Sequence[UUID], *, seconds: float, at_once: int = 12) -> list[UUID]:
    """Enqueue urgent jobs until each of these workers runs one of them; return these jobs."""
    jobs: list[UUID] = []
    for _ in range(60):
        jobs.extend(arena.plain(at_once, act="write", seconds=seconds, priority=PRIORITY_PROBE))
        with suppress(BrokenPromise):
            arena.wait(lambda: all(map(set(jobs).intersection, map(arena.running_under, workers))), "", seconds=1.0)
            return jobs
    raise BrokenPromise("a worker took none of the jobs that should keep it busy")


# In every n-th drain, one job lasts longer than the grace. It is released; the other running jobs are finished.
RELEASE_EVERY = 5
LONG_SECONDS = GRACE_SECONDS + 3.0
# A claim of this age has been answered, and its run has begun.
BEGUN_SECONDS = 1.5
REJECTED = "stale_write_rejected"


@fault()
def worker_frozen(arena: Arena) -> None:
    """SIGSTOP of one worker for twice its lease, then SIGCONT:

    the second run counts, and the writes of the frozen worker are refused.
    """
    worker, frozen = arena.draw.choice(list(arena.crew.worker_ids().items()))
    # One of these jobs must have begun: a run of another stage may end without a write when the worker continues.
    writing = set(_occupy(arena, [worker], seconds=LEASE_SECONDS + 1.0))
    arena.wait(lambda: writing & {*arena.running_under(worker, seconds=BEGUN_SECONDS)}, "it is busy", seconds=60)
    frozen_at = time.time()
    frozen.freeze()
    held = arena.running_under(worker)
    # If a job was claimed at the moment of the freeze, its run may never begin: a newer run exists by then.
    begun = set(arena.running_under(worker, seconds=BEGUN_SECONDS))
    arena.rest(2 * LEASE_SECONDS)
    frozen.thaw()
    arena.evidence.isolated_workers.setdefault(worker, []).append((frozen_at, time.time()))
    rescued = list(arena.steps(held, "rescue", since=frozen_at))
    arena.promise(rescued, "no job was rescued from the frozen worker")
    unlogged = begun.intersection(rescued)
    arena.promise(unlogged, "no rescued job of the frozen worker had begun")

    def all_logged() -> bool:
        unlogged.difference_update([job for job in unlogged if frozen.has_logged(REJECTED, "run_stopped", job=job)])
        return not unlogged

    ended = list(unlogged)
    arena.wait(all_logged, f"the frozen worker logs {len(unlogged)} lost runs", seconds=30)
    # The handlers of its jobs had ended when it continued, so it tried to settle them at once.
    arena.promise(
        any(frozen.has_logged(REJECTED, job=job) for job in ended), "the frozen worker wrote nothing to reject"
    )


@fault()
def workers_drained_in_turn(arena: Arena) -> None:
    """SIGTERM of one worker after the other, under load: each drains within its grace, and no attempt is spent."""
    drained: dict[UUID, float] = {}
    releasing = []
    with arena.crew.one_more("worker") as extra:  # so that a worker works while two new ones start
        for turn in range(arena.drains - 1):
            posts = arena.crew.of("worker")
            post = posts[turn % len(posts)]
            worker = _await_worker_id(arena, post)
            outlasting: list[UUID] = []
            if turn % RELEASE_EVERY == 0:
                releasing.append(worker)
                outlasting = _occupy(arena, [worker], seconds=LONG_SECONDS, at_once=2)
            leaving = post.role
            drained[worker] = asked_at = time.time()
            leaving.terminate()
            arena.crew.replace(post)
            _await_drained(arena, leaving, asked_at)
            # The released jobs have served their purpose. The next worker must not have to wait for them.
            arena.workload.cancel_later([("proving.plain", job) for job in outlasting], within=0.1)
        drained[_await_worker_id(arena, extra)] = asked_at = time.time()
    _await_drained(arena, extra.role, asked_at)
    arena.await_crew()
    arena.rest(LEASE_SECONDS + RESCUE_TICK_SECONDS)
    spent = _spent(arena, drained)
    arena.promise(not spent, f"{spent} runs of workers that drained cost their jobs an attempt")
    released = {worker for worker, _ in arena.ended(releasing, "release")}
    arena.promise(
        released == set(releasing), f"{len(released)} of {len(releasing)} workers released their unfinished jobs"
    )


def _spent(arena: Arena, drained: Mapping[UUID, float]) -> int:
    """Count the attempts spent because these workers stopped, from the time of each request.

    Retries that the handlers ask for do not count.
    """
    rescued = sum(arena.leases_lost([worker], since=asked_at) for worker, asked_at in drained.items())
    ((retried,),) = arena.ask(
        f"SELECT count(*) FROM ({RUNS}) AS run JOIN (SELECT id, act FROM proving.plain_jobs"
        " UNION ALL SELECT id, act FROM proving.keyed_jobs UNION ALL SELECT id, act FROM proving.two_step_jobs)"
        " AS job USING (id) JOIN unnest(%s::text[], %s::float8[]) AS drained(worker, asked_at) USING (worker)"
        " WHERE action IN ('retry', 'fail') AND act IN ('complete', 'write') AND ended > to_timestamp(asked_at)",
        [f"worker:{worker}" for worker in drained],
        list(drained.values()),
    )
    return rescued + int(retried)


def _await_worker_id(arena: Arena, post: Post) -> UUID:
    """Wait until this worker and another one work; return the id of this one."""
    arena.wait(lambda: len(arena.crew.worker_ids()) > 1 and post.worker_id, "two workers work", seconds=START_SECONDS)
    assert post.worker_id is not None
    return post.worker_id


def _await_drained(arena: Arena, leaving: Role, asked_at: float) -> None:
    code = leaving.exit_code(within=MAX_DRAIN_SECONDS + START_SECONDS)
    arena.promise(code == 0, f"worker {leaving.pid} ended with status {code}")
    took = time.time() - asked_at
    arena.measure_fresh_job()
    arena.promise_within(took, MAX_DRAIN_SECONDS, "a drain")


@fault(brief=False)
def clock_an_hour_ahead(arena: Arena) -> None:
    """The clock of one worker is an hour ahead:

    leases, expiry and limits use the clock of Postgres and are not affected.
    """
    _live_with_clock(arena, HOUR)


@fault(brief=False)
def clock_an_hour_behind(arena: Arena) -> None:
    """The clock of one worker is an hour behind:

    leases, expiry and limits use the clock of Postgres and are not affected.
    """
    _live_with_clock(arena, -HOUR)


def _live_with_clock(arena: Arena, offset: int) -> None:
    post = arena.draw.choice(arena.crew.of("worker"))
    post.role.terminate()
    post.role.exit_code(within=MAX_DRAIN_SECONDS + START_SECONDS)
    arena.crew.replace(post, clock_offset_seconds=offset)
    arena.await_crew()
    arena.rest(2.0)  # the first second of a worker's work is spent on imports
    since = time.time()
    assert post.worker_id is not None
    seen = _times_written_by(arena, post.worker_id)
    arena.promise(not arena.leases_lost([post.worker_id], since=since), "it lost a lease because of its wrong clock")
    arena.promise(min(seen.values()), f"not every time column of a job was checked: {seen}")
    post.role.terminate()
    post.role.exit_code(within=MAX_DRAIN_SECONDS + START_SECONDS)
    arena.await_crew()


def _times_written_by(arena: Arena, worker: UUID) -> Counter[str]:
    """Run jobs until every time column was checked in a job that this worker ran last; return the counts.

    All these times must be within half an hour of the enqueue.
    """
    seen = Counter(dict.fromkeys(TIMES, 0))
    for _ in range(ROUNDS):
        _look_at_times(arena, worker, seen)
        if min(seen.values()):
            break
    return seen


def _look_at_times(arena: Arena, worker: UUID, seen: Counter[str]) -> None:
    """Run some jobs, some of them by this worker, and check their times until all are done."""
    jobs = arena.plain(40, act="write", seconds=0.5) + arena.plain(20, act="snooze") + arena.plain(20, act="flaky")
    looks = ", ".join(
        f"count({time}), count(*) FILTER (WHERE abs(extract(epoch FROM {time} - job.created_at)) > 1800)"
        for time in TIMES
    )
    written = (
        f"SELECT {looks} FROM proving.plain_jobs AS job JOIN LATERAL (SELECT changed_by FROM runtime.transitions"
        " WHERE job_id = job.id AND changed_by LIKE 'worker:%%' ORDER BY version_to DESC LIMIT 1) AS last"
        " ON last.changed_by = %s WHERE job.id = ANY (%s)"
    )
    left = (
        "SELECT count(*) FROM proving.plain_jobs WHERE id = ANY (%s)"
        " AND (status <> 'completed' OR act = 'write' AND effects <> 1)"
    )

    def all_done() -> bool:
        found = arena.ask(written, f"worker:{worker}", jobs)[0]
        for column, count, wrong in zip(TIMES, found[::2], found[1::2], strict=True):
            arena.promise(not wrong, f"a time of the wrong clock was stored {wrong} times in {column}")
            seen[column] = max(seen[column], count)
        return not arena.ask(left, jobs)[0][0]

    arena.wait(all_done, "its jobs are done once", seconds=60)
