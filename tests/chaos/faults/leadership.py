"""Dispatchers that lose their lead, and beats that miss their ticks."""

import time
from collections.abc import Callable

from tests.chaos.arena import Arena
from tests.chaos.crew import Post
from tests.chaos.faults import fault
from tests.e2e.system import FOLLOWERS, Role

LED_AGAIN_WITHIN = 3.0
# Postgres ends a leader's session after three idle seconds; the next one looks every half second.
LED_AFTER_PAUSE_WITHIN = 4.0
MINUTE = 60.0
LATE_SECONDS = 10.0


@fault()
def leader_killed(arena: Arena) -> None:
    """SIGKILL of the leading dispatcher: the other one leads within three seconds."""
    _lose_leader(arena, Role.kill, within=LED_AGAIN_WITHIN)
    arena.await_crew()


@fault()
def leader_paused(arena: Arena) -> None:
    """SIGSTOP of the leading dispatcher: the other one leads within four seconds, the old one's statements fail."""
    old = _lose_leader(arena, Role.freeze, within=LED_AFTER_PAUSE_WITHIN)
    old.thaw()
    arena.wait(lambda: arena.ask(FOLLOWERS)[0][0], "the old leader follows", seconds=arena.granted(5.0))
    arena.promise(arena.system.leader_pid() != old.pid, "the old leader leads again")
    done = (
        "SELECT count(*) FROM runtime.transitions AS t CROSS JOIN runtime.dispatcher AS d"
        " WHERE t.changed_by LIKE %s AND t.created_at > d.leading_since"
    )
    arena.promise(not arena.ask(done, f"dispatcher:dispatcher-{old.pid}@%")[0][0], "the old leader went on")


def _lose_leader(arena: Arena, how: Callable[[Role], None], *, within: float) -> Role:
    arena.await_crew()
    pids = {role.pid: role for role in arena.crew.roles("dispatcher")}
    old = pids.pop(arena.system.leader_pid() or 0)
    arena.wait(lambda: arena.ask(FOLLOWERS)[0][0], "another one follows", seconds=60.0)
    lost_at = time.time()
    how(old)
    next_pid = arena.wait(
        lambda: (pid := arena.system.leader_pid()) != old.pid and pid, "another one leads", seconds=3 * within + 10
    )
    led = arena.ask("SELECT extract(epoch FROM leading_since)::float8 - %s FROM runtime.dispatcher", lost_at)[0][0]
    arena.promise(next_pid in pids, f"process {next_pid} leads, which did not follow")
    arena.promise_within(led, within, "to lead again")
    return old


@fault()
def beat_paused_across_ticks(arena: Arena) -> None:
    """SIGSTOP of one of two beats across a tick: the other one fires it, and the woken one does not fire it again."""
    post = arena.draw.choice(arena.crew.of("beat"))
    _pause(arena, [post], ticks=1)


@fault(brief=False)
def both_beats_paused_across_ticks(arena: Arena) -> None:
    """SIGSTOP of both beats across two ticks: they catch up by each schedule's policy, one job per tick."""
    _pause(arena, arena.crew.of("beat"), ticks=2)


def _pause(arena: Arena, posts: list[Post], *, ticks: int) -> None:
    """Freeze these beats until so many minutes have begun; other faults go on meanwhile."""
    roles = [post.role for post in posts]
    for role in roles:
        role.freeze()
    until = (time.time() // MINUTE + ticks) * MINUTE + 2.0

    def missed_and_caught_up() -> bool:
        if time.time() < until:
            return False
        for role in roles:
            if role.alive:
                role.thaw()
        # A minute's tick is missed once it is late: not before is this one judged with the others.
        return time.time() >= until + LATE_SECONDS and not missing_ticks(arena)

    arena.soon(f"ticks after {len(roles)} paused", missed_and_caught_up, within=ticks * MINUTE + 2 + 3 * LATE_SECONDS)


def missing_ticks(arena: Arena) -> int:
    """Count the minutes, but for the last seconds, in which a schedule that catches up on all has no tick."""
    rows = arena.ask(
        "SELECT count(*) FROM runtime.schedules AS s CROSS JOIN LATERAL generate_series("
        " date_trunc('minute', s.created_at) + interval '1 minute', now() - make_interval(secs => %s),"
        " interval '1 minute') AS minute LEFT JOIN runtime.ticks AS t ON t.schedule = s.name"
        " AND t.scheduled_for = minute WHERE s.catch_up = 'all' AND t.schedule IS NULL",
        LATE_SECONDS,
        seconds=0,
    )
    return int(rows[0][0])
