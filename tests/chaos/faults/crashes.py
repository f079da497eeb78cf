"""Processes that die between one step and the next, at the kernel's own failpoints."""

import time
from collections.abc import Sequence

from tests.chaos.arena import START_SECONDS, Arena
from tests.chaos.crew import Post
from tests.chaos.faults import fault
from workers.runtime.failpoints import EXIT_CODE, VARIABLE, Point

# Every arrival is soon reached under load, so a process dies within seconds of its start.
MOST_ARRIVALS = 4
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
# So many times of a schedule are due when a beat starts that dies of them; the next look comes within seconds.
MISSED, FIRED_SECONDS = 3, 30.0
MISSED_TICKS = """
    INSERT INTO runtime.schedules (name, stage, payload, cron, catch_up, created_at)
    VALUES (%s, 'proving.plain', '{"act": "write"}', '* * * * *', 'all',
            date_trunc('minute', now()) - make_interval(mins => %s))"""
TICKS = "SELECT count(*) FROM runtime.ticks WHERE starts_with(fired_by, %s) AND schedule = %s"


@fault()
def dispatcher_dies_before_it_publishes(arena: Arena) -> None:
    """A crash between the commit of the marks and their publishing: the jobs are dispatched again and run once."""
    _lead_to_death(arena, "dispatch.after", most_arrivals=MOST_ARRIVALS)


@fault(brief=False)
def dispatcher_dies_after_it_published(arena: Arena) -> None:
    """A crash right after a message was published: the next leader repeats nothing that was claimed."""
    _lead_to_death(arena, "publish.after", most_arrivals=MOST_ARRIVALS)


@fault(brief=False)
def dispatcher_dies_as_it_rescues(arena: Arena) -> None:
    """A crash right after a rescue's commit, with a worker killed too: the next leader finishes what is left."""
    arena.plain(20, seconds=3.0)
    arena.rest(1.0)
    arena.draw.choice(arena.crew.of("worker")).role.kill()
    _lead_to_death(arena, "rescue.after", most_arrivals=1)


@fault()
def worker_dies_between_pop_and_claim(arena: Arena) -> None:
    """A crash with a message taken from Redis and not claimed: its jobs are dispatched again and run once."""
    _work_to_death(arena, "carrier.before")


@fault(brief=False)
def worker_dies_between_claim_and_run(arena: Arena) -> None:
    """A crash between the claim's commit and its first run: the lease expires and the jobs run once."""
    _work_to_death(arena, "claim.after")


@fault(brief=False)
def worker_dies_after_it_settled(arena: Arena) -> None:
    """A crash right after outcomes and writes were committed: they stand, and nothing of them runs again."""
    _work_to_death(arena, "commit.after")


@fault(brief=False)
def worker_dies_anywhere(arena: Arena) -> None:
    """A crash at any other step of a worker, drawn at random: one execution's result for every job."""
    _work_to_death(arena, arena.draw.choice(WORKER_POINTS))


@fault(brief=False)
def beat_dies_with_its_tick(arena: Arena) -> None:
    """A crash of a beat before or right after a tick's commit: the other beat, or its successor, fires it once."""
    points: Sequence[Point] = ("tick.before", "tick.after")
    point = arena.draw.choice(points)
    victim, other = arena.draw.sample(arena.crew.of("beat"), 2)
    frozen, name, known = other.role, f"chaos.dies.{time.time():.0f}", len(arena.system.roles)
    # Both are held, so that what is due is left to the one that dies of it at its first look.
    victim.role.freeze()
    frozen.freeze()
    try:
        arena.run(MISSED_TICKS, name, MISSED)
        _die(arena, [victim], point, most_arrivals=1)
    finally:
        if frozen.alive:
            frozen.thaw()
    (dead,) = [role for role in arena.system.roles[known:] if role.process.returncode == EXIT_CODE]
    arena.wait(lambda: arena.ask(TICKS, "", name)[0][0] >= MISSED, "what was missed is fired", seconds=FIRED_SECONDS)
    left = arena.ask(TICKS, f"beat-{dead.pid}@", name)[0][0]
    arena.promise(left >= MISSED if point == "tick.after" else not left, f"dead at {point}, it left {left} ticks")


def _lead_to_death(arena: Arena, point: Point, *, most_arrivals: int) -> None:
    """Make the next leader one that dies at ``point``: whichever of the dispatchers it will be."""
    _die(arena, arena.crew.of("dispatcher"), point, most_arrivals=most_arrivals)


def _work_to_death(arena: Arena, point: Point) -> None:
    _die(arena, [arena.draw.choice(arena.crew.of("worker"))], point, most_arrivals=MOST_ARRIVALS)


def _die(arena: Arena, posts: Sequence[Post], point: Point, *, most_arrivals: int) -> None:
    """Replace the holders of these posts by such as die at ``point``; return when one did and all are filled again."""
    armed = f"{point}:{arena.draw.randint(1, most_arrivals)}"
    with arena.crew.may_die(posts[0].kind, at_most=len(posts)):
        for post in posts:
            post.role.kill()
        doomed = [arena.crew.replace(post, environment={VARIABLE: armed}) for post in posts]
        arena.plain(30, act="write", seconds=1.0)
        arena.wait(lambda: not all(role.alive for role in doomed), f"one dies at {armed}", seconds=START_SECONDS)
        codes = {role.process.returncode for role in doomed if not role.alive}
        for role in doomed:
            role.kill()
    arena.promise(codes == {EXIT_CODE}, f"ended with {codes}, not at {armed}")
    arena.await_crew()
