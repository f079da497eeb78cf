"""Processes that crash between two steps, at the failpoints of the kernel."""

import time
from collections.abc import Sequence

from tests.chaos.arena import START_SECONDS, Arena
from tests.chaos.crew import Post
from tests.chaos.faults import fault
from workers.runtime.failpoints import EXIT_CODE, VARIABLE, Point

# The process crashes when it reaches the failpoint for the n-th time, with n up to this. Under load that takes seconds.
MAX_ARRIVALS = 4
WORKER_POINTS: Sequence[Point] = (
    "ack.before",
    "ack.after",
    "carrier.after",
    "claim.before",
    "provider.before",
    "provider.after",
    "settle.before",
    "settle.after",
    "write.before",
    "write.after",
    "commit.before",
    "heartbeat.before",
    "heartbeat.after",
)
# How many times of a schedule are due when the beat starts that will crash. Another beat fires them within seconds.
MISSED, FIRED_SECONDS = 3, 30.0
MISSED_TICKS = """
    INSERT INTO runtime.schedules (name, stage, payload, cron, catch_up, created_at)
    VALUES (%s, 'proving.plain', '{"act": "write"}', '* * * * *', 'all',
            date_trunc('minute', now()) - make_interval(mins => %s))"""
TICKS = "SELECT count(*) FROM runtime.ticks WHERE starts_with(fired_by, %s) AND schedule = %s"


@fault()
def dispatcher_dies_before_it_publishes(arena: Arena) -> None:
    """A dispatcher crashes after it commits tickets and before it publishes them:

    the jobs are dispatched again and run once.
    """
    _crash_leader_at(arena, "dispatch.after", max_arrivals=MAX_ARRIVALS)


@fault(brief=False)
def dispatcher_dies_after_it_published(arena: Arena) -> None:
    """A dispatcher crashes right after it published a message:

    the next leader does not repeat jobs that were claimed.
    """
    _crash_leader_at(arena, "publish.after", max_arrivals=MAX_ARRIVALS)


@fault(brief=False)
def dispatcher_dies_as_it_rescues(arena: Arena) -> None:
    """A worker is killed, and the leader crashes right after it commits a rescue:

    the next leader rescues the jobs that are left.
    """
    arena.plain(20, seconds=3.0)
    arena.rest(1.0)
    arena.draw.choice(arena.crew.of("worker")).role.kill()
    _crash_leader_at(arena, "rescue.after", max_arrivals=1)


@fault()
def worker_dies_between_pop_and_claim(arena: Arena) -> None:
    """A worker crashes after it took a message from Redis and before it claims the jobs:

    its jobs are dispatched again and run once.
    """
    _crash_worker_at(arena, "carrier.before")


@fault(brief=False)
def worker_dies_between_claim_and_run(arena: Arena) -> None:
    """A worker crashes after it commits a claim and before the first run begins:

    the lease ends, and the jobs run once.
    """
    _crash_worker_at(arena, "claim.after")


@fault(brief=False)
def worker_dies_after_it_settled(arena: Arena) -> None:
    """A worker crashes right after outcomes and writes were committed: they stay, and these jobs do not run again."""
    _crash_worker_at(arena, "commit.after")


@fault(brief=False)
def worker_dies_anywhere(arena: Arena) -> None:
    """A worker crashes at another step, chosen at random: every job has the result of one run."""
    _crash_worker_at(arena, arena.draw.choice(WORKER_POINTS))


@fault(brief=False)
def beat_dies_with_its_tick(arena: Arena) -> None:
    """A beat crashes before or right after it commits a tick: the other beat, or the next one, fires the tick once."""
    points: Sequence[Point] = ("tick.before", "tick.after")
    point = arena.draw.choice(points)
    victim, other = arena.draw.sample(arena.crew.of("beat"), 2)
    frozen, name, known = other.role, f"chaos.dies.{time.time():.0f}", len(arena.system.roles)
    # Freeze both beats, so that the due times are left to the new beat, which crashes at its first pass.
    victim.role.freeze()
    frozen.freeze()
    try:
        arena.run(MISSED_TICKS, name, MISSED)
        _crash_at(arena, [victim], point, max_arrivals=1)
    finally:
        if frozen.alive:
            frozen.thaw()
    (dead,) = [role for role in arena.system.roles[known:] if role.process.returncode == EXIT_CODE]
    arena.wait(lambda: arena.ask(TICKS, "", name)[0][0] >= MISSED, "the missed times are fired", seconds=FIRED_SECONDS)
    left = arena.ask(TICKS, f"beat-{dead.pid}@", name)[0][0]
    arena.promise(left >= MISSED if point == "tick.after" else not left, f"it crashed at {point} and left {left} ticks")


def _crash_leader_at(arena: Arena, point: Point, *, max_arrivals: int) -> None:
    """Make the next leader crash at ``point``, whichever dispatcher becomes the leader."""
    _crash_at(arena, arena.crew.of("dispatcher"), point, max_arrivals=max_arrivals)


def _crash_worker_at(arena: Arena, point: Point) -> None:
    _crash_at(arena, [arena.draw.choice(arena.crew.of("worker"))], point, max_arrivals=MAX_ARRIVALS)


def _crash_at(arena: Arena, posts: Sequence[Post], point: Point, *, max_arrivals: int) -> None:
    """Replace the processes of these posts by processes that crash at ``point``.

    Return when one of them has crashed and all posts are filled again.
    """
    armed = f"{point}:{arena.draw.randint(1, max_arrivals)}"
    with arena.crew.may_die(posts[0].kind, at_most=len(posts)):
        for post in posts:
            post.role.kill()
        doomed = [arena.crew.replace(post, environment={VARIABLE: armed}) for post in posts]
        arena.plain(30, act="write", seconds=1.0)
        arena.wait(lambda: not all(role.alive for role in doomed), f"one crashes at {armed}", seconds=START_SECONDS)
        codes = {role.process.returncode for role in doomed if not role.alive}
        for role in doomed:
            role.kill()
    arena.promise(codes == {EXIT_CODE}, f"ended with {codes}, not at {armed}")
    arena.await_crew()
