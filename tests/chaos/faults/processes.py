"""Worker processes that are killed, frozen, drained, or told a wrong time."""

import time
from uuid import UUID

from tests.chaos.arena import GRACE_SECONDS, LEASE_SECONDS, RESCUE_TICK_SECONDS, START_SECONDS, Arena
from tests.chaos.crew import Post
from tests.chaos.faults import fault
from tests.e2e.system import Role

RESCUED_WITHIN = LEASE_SECONDS + RESCUE_TICK_SECONDS
DRAINED_WITHIN = GRACE_SECONDS + 4.0
HOUR = 3600


@fault()
def worker_killed(arena: Arena) -> None:
    """SIGKILL of one worker mid-call: its jobs run again within the lease and one tick, one attempt spent."""
    _kill(arena, [arena.draw.choice(arena.crew.of("worker"))])


@fault(brief=False)
def all_workers_killed(arena: Arena) -> None:
    """SIGKILL of every worker mid-call: all their jobs run again within the lease and one tick, one attempt spent."""
    _kill(arena, arena.crew.of("worker"))


def _kill(arena: Arena, victims: list[Post]) -> None:
    arena.plain(4 * SLOTS_HELD, act="write", seconds=2.0)
    ids = arena.crew.worker_ids()
    workers = [worker for worker, role in ids.items() if role in [post.role for post in victims]]
    arena.wait(lambda: all(len(arena.running_under(w)) >= SLOTS_HELD for w in workers), "they are busy", seconds=60)
    for post in victims:
        post.role.kill()
    killed_at = time.time()
    held = [job for worker in workers for job in arena.running_under(worker)]
    arena.crew.mend()
    freed_within = arena.granted(RESCUED_WITHIN) + 5
    arena.wait(lambda: not any(map(arena.running_under, workers)), "their jobs are freed", seconds=freed_within)
    rescued = arena.steps(held, "rescue", since=killed_at)
    arena.promise_within(max(rescued.values(), default=killed_at) - killed_at, RESCUED_WITHIN, "the last rescue")
    arena.await_crew()


SLOTS_HELD = 4
# A claim so old has been answered, and its run has begun.
BEGUN_SECONDS = 1.5


@fault(deafens=True)
def worker_frozen(arena: Arena) -> None:
    """SIGSTOP of one worker for twice its lease, then CONT: the second run wins, the zombie's writes are refused."""
    arena.plain(20, act="write", seconds=2.0)
    worker, zombie = arena.draw.choice(list(arena.crew.worker_ids().items()))
    arena.wait(lambda: arena.running_under(worker), "it is busy", seconds=60)
    frozen_at = time.time()
    zombie.freeze()
    held = arena.running_under(worker)
    # What was claimed as it froze may never begin: the claim's answer finds a newer run in its place.
    begun = set(arena.running_under(worker, seconds=BEGUN_SECONDS))
    arena.rest(2 * LEASE_SECONDS)
    zombie.thaw()
    rescued = list(arena.steps(held, "rescue", since=frozen_at))
    arena.promise(rescued or not held, "nothing was taken from the frozen worker")
    refused = ("stale_write_rejected", "run_stopped")
    untold = begun.intersection(rescued)

    def told() -> bool:
        untold.difference_update([job for job in untold if zombie.said(*refused, job=job)])
        return not untold

    arena.wait(told, f"the zombie is told of {len(untold)} jobs", seconds=30)


@fault()
def workers_drained_in_turn(arena: Arena) -> None:
    """Rolling SIGTERM of all workers under load: each drains within its grace, and no attempt is spent."""
    since, drained = time.time(), []
    with arena.crew.one_more("worker") as extra:  # so that somebody works while two successors start
        for turn in range(arena.drains - 1):
            posts = arena.crew.of("worker")
            post = posts[turn % len(posts)]
            drained.append(_shown(arena, post))
            leaving, asked_at = post.role, time.time()
            leaving.terminate()
            arena.crew.replace(post)
            _await_drained(arena, leaving, asked_at)
        drained.append(_shown(arena, extra))
        asked_at = time.time()
    _await_drained(arena, extra.role, asked_at)
    arena.await_crew()
    arena.rest(LEASE_SECONDS + RESCUE_TICK_SECONDS)
    arena.promise(not arena.leases_lost(drained, since=since), "a worker that drained left jobs to be rescued")


def _shown(arena: Arena, post: Post) -> UUID:
    """Return the id of this post's worker once it works beside another one."""
    arena.wait(lambda: len(arena.crew.worker_ids()) > 1 and post.worker_id, "two workers work", seconds=START_SECONDS)
    assert post.worker_id is not None
    return post.worker_id


def _await_drained(arena: Arena, leaving: Role, asked_at: float) -> None:
    code = leaving.exit_code(within=DRAINED_WITHIN + START_SECONDS)
    arena.promise(code == 0, f"worker {leaving.pid} ended with status {code}")
    arena.promise_within(time.time() - asked_at, DRAINED_WITHIN, "a drain")


@fault(brief=False)
def clock_an_hour_ahead(arena: Arena) -> None:
    """One worker's clock runs an hour ahead: leases, expiry and limits follow Postgres' clock and notice nothing."""
    _live_with_clock(arena, HOUR)


@fault(brief=False)
def clock_an_hour_behind(arena: Arena) -> None:
    """One worker's clock runs an hour behind: leases, expiry and limits follow Postgres' clock and notice nothing."""
    _live_with_clock(arena, -HOUR)


def _live_with_clock(arena: Arena, offset: int) -> None:
    post = arena.draw.choice(arena.crew.of("worker"))
    post.role.terminate()
    post.role.exit_code(within=DRAINED_WITHIN + START_SECONDS)
    arena.crew.replace(post, clock_offset_seconds=offset)
    arena.await_crew()
    arena.rest(2.0)  # the first second of a worker's work is spent on imports
    since = time.time()
    jobs = arena.plain(40, act="write", seconds=0.2)
    done = "SELECT count(*) FROM proving.plain_jobs WHERE id = ANY (%s) AND status = 'completed' AND effects = 1"
    arena.wait(lambda: arena.ask(done, jobs)[0][0] == len(jobs), "its jobs are done once", seconds=60)
    assert post.worker_id is not None
    arena.promise(not arena.leases_lost([post.worker_id], since=since), "a wrong clock cost it a lease")
    taken = "SELECT count(*) FROM runtime.transitions WHERE changed_by = %s AND change_action = 'claim'"
    arena.promise(arena.ask(taken, f"worker:{post.worker_id}")[0][0], "it took no job")
    wrong = (
        "SELECT count(*) FROM proving.plain_jobs WHERE id = ANY (%s)"
        " AND greatest(started_at, completed_at, updated_at) - created_at > interval '30 minutes'"
    )
    arena.promise(not arena.ask(wrong, jobs)[0][0], "a wrong clock was written down")
    post.role.terminate()
    post.role.exit_code(within=DRAINED_WITHIN + START_SECONDS)
    arena.await_crew()
