"""Postgres that throws sessions out, goes away, holds locks, has no room, or whose answers get lost."""

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg

from tests.chaos.arena import Arena
from tests.chaos.faults import fault
from tests.chaos.faults.leadership import LATE_SECONDS, MINUTE, missing_ticks
from tests.chaos.workload import PRIORITY_PROBE

# Longer than anything in the system waits for a lock.
LOCK_SECONDS, BRIEF_LOCK_SECONDS = 12.0, 5.0
UNHINDERED_SECONDS = 3.0
HALF_OPEN_SECONDS = 60.0
LONGEST_ABSENCE = 10.0
SOME_SECONDS = 4.0
SHARE_LOST = 0.2
LATENCY_SECONDS = 0.05
HOLDERS = 30
# In an order that does not depend on what the processes are called this time.
SESSIONS = (
    "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND {}"
    " ORDER BY split_part(application_name, ':', 1), backend_start"
)


@fault(deafens=True)
def sessions_terminated(arena: Arena) -> None:
    """pg_terminate_backend of sessions drawn at random, whoever has them: no commit is lost, nobody needs a restart."""
    for _ in range(12):
        _terminate(arena, 2, of=arena.ask(SESSIONS.format(True)))
        arena.rest(0.25)


def _terminate(arena: Arena, count: int, *, of: Sequence[tuple[Any, ...]]) -> None:
    """End so many of these sessions, drawn from their order."""
    pids = [pid for (pid,) in of]
    victims = arena.draw.sample(pids, min(count, len(pids)))
    arena.ask("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS pid", victims)


@fault(deafens=True)
def postgres_stopped_immediately(arena: Arena) -> None:
    """Postgres is stopped at once, without a word to anybody, for up to ten seconds: no commit is lost, no human."""
    servers = arena.system.servers
    process = servers._servers["postgres"]._process
    assert process is not None
    process.send_signal(signal.SIGQUIT)
    process.wait(30)
    arena.rest(arena.draw.uniform(0, LONGEST_ABSENCE / 4 if arena.brief else LONGEST_ABSENCE))
    servers.start_postgres()


@fault(brief=False, deafens=True)
def postgres_killed(arena: Arena) -> None:
    """SIGKILL of Postgres, which recovers from its log: no commit is lost, no human."""
    arena.system.servers.kill_postgres()
    arena.rest(arena.draw.uniform(0, LONGEST_ABSENCE / 4))
    arena.system.servers.start_postgres()


@fault(deafens=True)
def commit_answers_lost(arena: Arena) -> None:
    """Commits succeed but a fifth of their answers never arrives: no double transition, a second look decides."""
    before = arena.postgres_road.answers_dropped
    with arena.postgres_road.losing_commits(SHARE_LOST), arena.door_road.losing_commits(SHARE_LOST):
        arena.rest(SOME_SECONDS)
    arena.promise(arena.postgres_road.answers_dropped > before, "no answer was lost")


@fault(deafens=True)
def postgres_connections_reset(arena: Arena) -> None:
    """Every connection to Postgres is reset, three times in a row: no commit is lost, nobody needs a restart."""
    for _ in range(3):
        arena.postgres_road.cut()
        arena.door_road.cut()
        arena.rest(1.0)


@fault(brief=False, deafens=True)
def postgres_unreachable(arena: Arena) -> None:
    """Connections to Postgres are refused for some seconds: no commit is lost, nobody needs a restart."""
    with arena.postgres_road.refusing():
        arena.rest(SOME_SECONDS)


@fault(brief=False, deafens=True)
def postgres_stalled(arena: Arena) -> None:
    """No byte passes to or from Postgres for longer than a lease: what was rescued meanwhile runs once all the same."""
    with arena.postgres_road.stalled():
        arena.rest(SOME_SECONDS)


@fault(brief=False, deafens=True, lingers=True, heals_within=HALF_OPEN_SECONDS)
def postgres_half_open(arena: Arena) -> None:
    """Every open connection to Postgres falls silent for good: each is found dead and replaced within a minute."""
    arena.postgres_road.silence()
    # The beats find theirs dead as well: every minute has its tick, those of the silence too.
    judged_at = time.time() + HALF_OPEN_SECONDS + LATE_SECONDS
    arena.soon(
        "ticks after a silent Postgres",
        lambda: time.time() >= judged_at and not missing_ticks(arena),
        within=HALF_OPEN_SECONDS + LATE_SECONDS + MINUTE,
    )


@fault(brief=False, deafens=True)
def postgres_slow(arena: Arena) -> None:
    """Every message to and from Postgres takes 50 ms longer: all is slower, nothing is lost."""
    with arena.postgres_road.slow(LATENCY_SECONDS):
        arena.rest(SOME_SECONDS)


@fault()
def table_locked(arena: Arena) -> None:
    """Somebody holds a whole job table for twelve seconds: fresh jobs of others are completed within three."""
    _lock(
        arena, "LOCK TABLE proving.plain_jobs IN ACCESS EXCLUSIVE MODE", unhindered=("proving.keyed", "proving.first")
    )


@fault()
def rows_locked(arena: Arena) -> None:
    """Somebody holds the rows of running jobs for twelve seconds: those wait alone, a fresh job of their table is

    completed within three.
    """
    held = "SELECT FROM proving.plain_jobs WHERE completed_at IS NULL FOR UPDATE SKIP LOCKED"
    _lock(arena, held, unhindered=("proving.plain",))


def _lock(arena: Arena, sql: str, *, unhindered: Sequence[str]) -> None:
    """Hold a lock, and see once a second that jobs of these stages go by it as if it were not there."""
    with _holding(arena, sql):
        until = time.monotonic() + (BRIEF_LOCK_SECONDS if arena.brief else LOCK_SECONDS)
        while time.monotonic() < until:
            arena.rest(1.0)
            for stage in unhindered:
                _promise_unhindered(arena, stage)


def _promise_unhindered(arena: Arena, stage: str) -> None:
    jobs = arena.workload.put(stage, [{"priority": PRIORITY_PROBE, "key": "unhindered"}])
    late = arena.granted(UNHINDERED_SECONDS)
    took = arena.wait(lambda: arena.slowest(stage, jobs), f"a fresh job of {stage} ends", seconds=late + 1)
    arena.promise_within(took, UNHINDERED_SECONDS, f"a fresh job of {stage}")


@contextmanager
def _holding(arena: Arena, sql: str) -> Iterator[None]:
    with psycopg.connect(arena.system.database_url) as connection:
        connection.execute(sql.encode())
        yield
        connection.rollback()


@fault(brief=False, deafens=True)
def connections_exhausted(arena: Arena) -> None:
    """Strangers take every connection that Postgres has, some sessions end: the system goes on when there is room."""
    with ExitStack() as strangers:
        for _ in range(1_000):
            try:
                stranger: psycopg.Connection[Any] = psycopg.connect(arena.system.database_url, autocommit=True)
            except psycopg.OperationalError:
                break
            strangers.callback(stranger.close)
        _terminate(arena, 6, of=arena.system.ask(SESSIONS.format("application_name <> ''")))
        arena.rest(SOME_SECONDS)


@fault()
def pool_exhausted(arena: Arena) -> None:
    """Handlers hold more sessions than their worker has connections: they take turns, and no attempt is spent."""
    jobs = arena.plain(HOLDERS, act="hold", seconds=1.0)

    done = "SELECT sum(retry_count), count(completed_at) FROM proving.plain_jobs WHERE id = ANY (%s)"
    arena.wait(lambda: arena.ask(done, jobs)[0] == (0, len(jobs)), "all are done unspent", seconds=60.0)
