"""Dispatchers that lose their lead, and beats that miss their ticks."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

from tests.chaos.arena import LEASE_SECONDS, RESCUE_TICK_SECONDS, Arena
from tests.chaos.faults import fault
from tests.e2e.system import FOLLOWERS, Role

MAX_TAKEOVER_SECONDS = 3.0
# Postgres ends a leader's session after three idle seconds. The other dispatchers look every half second.
MAX_TAKEOVER_AFTER_PAUSE_SECONDS = 4.0
MINUTE = 60.0
LATE_SECONDS = 10.0
FIRED_AFTER = 5.0
# HELD: jobs for the worker that is killed. WAITING: jobs that wait for slots when the old leader continues.
HELD, WAITING = 20, 240

# Tickets and wake-ups make no transition. So a trigger records every update by a dispatcher, with its name.
WATCHED = """SELECT EXISTS (SELECT FROM pg_trigger WHERE tgname = 'note_leader')"""
WATCH = (
    """CREATE TABLE IF NOT EXISTS proving.led
         (at timestamptz NOT NULL DEFAULT now(), leader text NOT NULL, job_id uuid NOT NULL)""",
    """CREATE OR REPLACE FUNCTION proving.note_leader() RETURNS trigger LANGUAGE plpgsql AS $$
       BEGIN
         INSERT INTO proving.led (leader, job_id) VALUES (current_setting('gristmill.changed_by'), NEW.id);
         RETURN NULL;
       END $$""",
    """CREATE TRIGGER note_leader AFTER UPDATE ON proving.plain_jobs FOR EACH ROW
         WHEN (starts_with(current_setting('gristmill.changed_by', true), 'dispatcher:'))
         EXECUTE FUNCTION proving.note_leader()""",
)
LED_ON = """
    SELECT count(*) FROM (SELECT at, leader FROM proving.led
                           UNION ALL SELECT created_at, changed_by FROM runtime.transitions) AS done
     CROSS JOIN runtime.dispatcher AS d WHERE starts_with(done.leader, %s) AND done.at > d.leading_since"""
MARKED = "SELECT count(*) FROM proving.led WHERE NOT starts_with(leader, %s) AND at > to_timestamp(%s)"

# Each schedule has one time a day. If a beat continues more than a minute after it, only `one` still fires it.
MISSED_ONCE = """
    INSERT INTO runtime.schedules (name, stage, payload, cron, catch_up, created_at)
    SELECT 'chaos.missed.' || policy || '.' || %s, 'proving.plain', '{"act": "write"}', %s, policy,
           to_timestamp(%s) - interval '1 minute'
      FROM unnest(ARRAY['one', 'skip']) AS policy"""
NOT_CAUGHT_UP = """
    SELECT count(*) FROM runtime.schedules AS s LEFT JOIN runtime.ticks AS t ON t.schedule = s.name
     WHERE s.name LIKE 'chaos.missed.%' AND s.catch_up = 'one' AND t.schedule IS NULL"""


@fault()
def leader_killed(arena: Arena) -> None:
    """SIGKILL of the leading dispatcher: the other one leads within three seconds."""
    old, followers = _followed_leader(arena)
    lost_at = time.time()
    old.kill()
    _await_next(arena, followers, lost_at=lost_at, within=MAX_TAKEOVER_SECONDS)
    arena.await_crew()


@fault()
def leader_paused(arena: Arena) -> None:
    """SIGSTOP of the leader while a worker dies:

    another dispatcher leads within four seconds, and the old leader changes nothing.
    """
    _watch_leaders(arena)
    old, followers = _followed_leader(arena)
    logged = len(old.lines())
    worker, held = _kill_at_work(arena)
    lost_at = time.time()
    old.freeze()
    arena.plain(WAITING, seconds=0.5)
    _await_next(arena, followers, lost_at=lost_at, within=MAX_TAKEOVER_AFTER_PAUSE_SECONDS)
    # The new leader waits for one lease before it rescues from any worker. The old leader would not wait.
    thawed_at = time.time()
    old.thaw()
    freed_within = arena.granted(LEASE_SECONDS + RESCUE_TICK_SECONDS) + 5
    arena.wait(lambda: not arena.running_under(worker), "the dead worker's jobs are freed", seconds=freed_within)
    me = f"dispatcher:dispatcher-{old.pid}@"
    arena.promise(not (done := arena.ask(LED_ON, me)[0][0]), f"the old leader continued: {done} steps")
    arena.promise(arena.steps(held, "rescue", since=lost_at), "there was nothing to rescue")
    arena.promise(arena.ask(MARKED, me, thawed_at)[0][0], "there was nothing to mark")
    arena.wait(lambda: arena.ask(FOLLOWERS)[0][0], "the old leader follows", seconds=arena.granted(5.0))
    arena.promise(arena.system.leader_pid() != old.pid, "the old leader leads again")
    # Its term is over, or Postgres ended its session. Its log says which.
    events = ("dispatcher_lost_lead", "dispatcher_lost_database")
    arena.wait(
        lambda: any(event in line for line in old.lines()[logged:] for event in events),
        "the old leader logs that it does not lead any more",
        seconds=arena.granted(5.0),
    )
    arena.await_crew()


def _watch_leaders(arena: Arena) -> None:
    """Make Postgres record what leaders do to plain jobs from now on."""
    if not arena.ask(WATCHED)[0][0]:
        for statement in WATCH:
            arena.system.run(statement)


def _followed_leader(arena: Arena) -> tuple[Role, set[int]]:
    """Wait until a dispatcher follows; return the leading dispatcher and the processes that may lead after it."""
    arena.await_crew()
    arena.wait(lambda: arena.ask(FOLLOWERS)[0][0], "another one follows", seconds=60.0)
    roles = {role.pid: role for role in arena.crew.roles("dispatcher")}
    leader = roles.pop(arena.system.leader_pid() or 0)
    return leader, set(roles)


def _kill_at_work(arena: Arena) -> tuple[UUID, list[UUID]]:
    """Kill a worker that runs some of twenty fresh jobs; return its id and these jobs."""
    jobs = set(arena.plain(HELD, seconds=LEASE_SECONDS))
    worker, role = arena.draw.choice(sorted(arena.crew.worker_ids().items(), key=lambda one: one[1].pid))
    arena.wait(lambda: jobs.intersection(arena.running_under(worker)), "a worker is busy", seconds=60)
    role.kill()
    return worker, list(jobs.intersection(arena.running_under(worker)))


def _await_next(arena: Arena, followers: set[int], *, lost_at: float, within: float) -> None:
    """Wait until one of ``followers`` leads, and check how long that took."""
    arena.wait(lambda: arena.system.leader_pid() in followers, "one that followed leads", seconds=3 * within + 10)
    led = arena.ask("SELECT extract(epoch FROM leading_since)::float8 - %s FROM runtime.dispatcher", lost_at)[0][0]
    arena.promise_within(led, within, "to lead again")


@fault()
def beat_paused_across_ticks(arena: Arena) -> None:
    """SIGSTOP of one of two beats during a tick:

    the other beat fires it, and the paused beat does not fire it again when it continues.
    """
    frozen = [arena.draw.choice(arena.crew.of("beat")).role]
    frozen[0].freeze()
    # A tick counts as missed only when it is late.
    judged_at = _minute(1) + LATE_SECONDS + 1
    given_up_at = judged_at + 2 * LATE_SECONDS

    def fired_by_the_other() -> bool:
        if time.time() < judged_at:
            return False
        if time.time() > given_up_at:
            _thaw(frozen)
            return False
        if missing_ticks(arena):
            return False
        _thaw(frozen)
        return True

    _check_later(arena, "a tick with one beat paused", fired_by_the_other, by=given_up_at)


@fault(brief=False)
def both_beats_paused_across_ticks(arena: Arena) -> None:
    """SIGSTOP of both beats during two ticks: they follow the catch-up policy of each schedule, one job per tick."""
    arena.rest(FIRED_AFTER - time.time() % MINUTE)  # do not begin while a beat fires
    frozen = [post.role for post in arena.crew.of("beat")]
    for role in frozen:
        role.freeze()
    missed, woken_at = _minute(1), _minute(2) + 2
    cron = f"{datetime.fromtimestamp(missed, UTC):%M %H} * * *"
    arena.run(MISSED_ONCE, str(int(missed)), cron, missed)

    def caught_up() -> bool:
        if time.time() < woken_at:
            return False
        _thaw(frozen)
        late = time.time() >= woken_at + LATE_SECONDS
        return late and not missing_ticks(arena) and not arena.ask(NOT_CAUGHT_UP, seconds=0)[0][0]

    _check_later(arena, "ticks with both beats paused", caught_up, by=woken_at + 3 * LATE_SECONDS)


def _minute(nth: int) -> float:
    """Return the beginning of the ``nth`` minute from now on."""
    return (time.time() // MINUTE + nth) * MINUTE


def _thaw(frozen: list[Role]) -> None:
    """Let these processes continue, once; a process that is frozen later belongs to another fault."""
    while frozen:
        role = frozen.pop()
        if role.alive:
            role.thaw()


def _check_later(arena: Arena, name: str, condition: Callable[[], bool], *, by: float) -> None:
    """Check ``condition`` while other faults run; it must hold before ``by`` and some seconds."""
    arena.check_later(name, condition, within=by + LATE_SECONDS / 2 - time.time())


def missing_ticks(arena: Arena) -> int:
    """Count the minutes without a tick of the schedules with policy `all`; the last seconds do not count."""
    rows = arena.ask(
        "SELECT count(*) FROM runtime.schedules AS s CROSS JOIN LATERAL generate_series("
        " date_trunc('minute', s.created_at) + interval '1 minute', now() - make_interval(secs => %s),"
        " interval '1 minute') AS minute LEFT JOIN runtime.ticks AS t ON t.schedule = s.name"
        " AND t.scheduled_for = minute WHERE s.catch_up = 'all' AND t.schedule IS NULL",
        LATE_SECONDS,
        seconds=0,
    )
    return int(rows[0][0])
