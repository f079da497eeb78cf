"""Postgres ends sessions, goes away, holds locks, has no free connection, or its answers are lost."""

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

# Longer than any process waits for a lock.
LOCK_SECONDS, BRIEF_LOCK_SECONDS = 12.0, 5.0
MAX_UNHINDERED_SECONDS = 3.0
HALF_OPEN_SECONDS = 60.0
MAX_ABSENCE_SECONDS = 10.0
FAULT_SECONDS = 4.0
SHARE_LOST = 0.2
LATENCY_SECONDS = 0.05
HOLDERS = 30
# The order must not depend on process ids, so that the same seed chooses the same sessions.
SESSIONS = (
    "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND {}"
    " ORDER BY split_part(application_name, ':', 1), backend_start"
)


@fault(isolates=True)
def sessions_terminated(arena: Arena) -> None:
    """Random sessions are ended with pg_terminate_backend: no commit is lost, and nothing needs a restart."""
    for _ in range(12):
        _terminate(arena, 2, of=arena.ask(SESSIONS.format(True)))
        arena.rest(0.25)


def _terminate(arena: Arena, count: int, *, of: Sequence[tuple[Any, ...]]) -> None:
    """End ``count`` of these sessions, chosen at random."""
    pids = [pid for (pid,) in of]
    victims = arena.draw.sample(pids, min(count, len(pids)))
    arena.ask("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS pid", victims)


@fault(isolates=True)
def postgres_stopped_immediately(arena: Arena) -> None:
    """Postgres stops at once (SIGQUIT), without a notice to its clients, for up to ten seconds:

    no commit is lost, and nobody needs to act.
    """
    servers = arena.system.servers
    process = servers._servers["postgres"]._process
    assert process is not None
    process.send_signal(signal.SIGQUIT)
    process.wait(30)
    arena.rest(arena.draw.uniform(0, MAX_ABSENCE_SECONDS / 4 if arena.brief else MAX_ABSENCE_SECONDS))
    servers.start_postgres()


@fault(brief=False, isolates=True)
def postgres_killed(arena: Arena) -> None:
    """SIGKILL of Postgres, which then recovers from its log: no commit is lost, and nobody needs to act."""
    arena.system.servers.kill_postgres()
    arena.rest(arena.draw.uniform(0, MAX_ABSENCE_SECONDS / 4))
    arena.system.servers.start_postgres()


@fault(isolates=True)
def commit_answers_lost(arena: Arena) -> None:
    """Commits succeed, but a fifth of the answers is lost:

    no transition happens twice, because the process looks at the row again.
    """
    before = arena.postgres_proxy.answers_dropped
    with arena.postgres_proxy.losing_commits(SHARE_LOST), arena.enqueue_proxy.losing_commits(SHARE_LOST):
        arena.rest(FAULT_SECONDS)
    arena.promise(arena.postgres_proxy.answers_dropped > before, "no answer was lost")


@fault(isolates=True)
def postgres_connections_reset(arena: Arena) -> None:
    """Every connection to Postgres is reset, three times in a row: no commit is lost, and nothing needs a restart."""
    for _ in range(3):
        arena.postgres_proxy.cut()
        arena.enqueue_proxy.cut()
        arena.rest(1.0)


@fault(brief=False, isolates=True)
def postgres_unreachable(arena: Arena) -> None:
    """Connections to Postgres are refused for some seconds: no commit is lost, and nothing needs a restart."""
    with arena.postgres_proxy.refusing():
        arena.rest(FAULT_SECONDS)


@fault(brief=False, isolates=True)
def postgres_stalled(arena: Arena) -> None:
    """No byte passes to or from Postgres for longer than a lease: jobs that are rescued in that time still run once."""
    with arena.postgres_proxy.stalled():
        arena.rest(FAULT_SECONDS)


@fault(brief=False, isolates=True, lingers=True, heals_within=HALF_OPEN_SECONDS)
def postgres_half_open(arena: Arena) -> None:
    """Every open connection to Postgres becomes half-open: each is detected and replaced within a minute."""
    arena.postgres_proxy.silence()
    # The beats also replace their connections: every minute has its tick, also the minutes of the fault.
    judged_at = time.time() + HALF_OPEN_SECONDS + LATE_SECONDS
    arena.check_later(
        "ticks after half-open connections to Postgres",
        lambda: time.time() >= judged_at and not missing_ticks(arena),
        within=HALF_OPEN_SECONDS + LATE_SECONDS + MINUTE,
    )


@fault(brief=False, isolates=True)
def postgres_slow(arena: Arena) -> None:
    """Every message to and from Postgres takes 50 ms longer: everything is slower, and nothing is lost."""
    with arena.postgres_proxy.slow(LATENCY_SECONDS):
        arena.rest(FAULT_SECONDS)


@fault()
def table_locked(arena: Arena) -> None:
    """A session locks a whole job table for twelve seconds:

    fresh jobs of other tables are completed within three seconds.
    """
    _lock(
        arena, "LOCK TABLE proving.plain_jobs IN ACCESS EXCLUSIVE MODE", unhindered=("proving.keyed", "proving.first")
    )


@fault()
def rows_locked(arena: Arena) -> None:
    """A session locks the rows of running jobs for twelve seconds:

    only these jobs wait; a fresh job of their table is completed within three seconds.
    """
    held = "SELECT FROM proving.plain_jobs WHERE completed_at IS NULL FOR UPDATE SKIP LOCKED"
    _lock(arena, held, unhindered=("proving.plain",))


def _lock(arena: Arena, sql: str, *, unhindered: Sequence[str]) -> None:
    """Hold a lock, and check once a second that jobs of these stages are not delayed by it."""
    with _holding(arena, sql):
        until = time.monotonic() + (BRIEF_LOCK_SECONDS if arena.brief else LOCK_SECONDS)
        while time.monotonic() < until:
            arena.rest(1.0)
            for stage in unhindered:
                _promise_unhindered(arena, stage)


def _promise_unhindered(arena: Arena, stage: str) -> None:
    jobs = arena.workload.put(stage, [{"priority": PRIORITY_PROBE, "key": "unhindered"}])
    late = arena.granted(MAX_UNHINDERED_SECONDS)
    took = arena.wait(lambda: arena.slowest(stage, jobs), f"a fresh job of {stage} ends", seconds=late + 1)
    arena.promise_within(took, MAX_UNHINDERED_SECONDS, f"a fresh job of {stage}")


@contextmanager
def _holding(arena: Arena, sql: str) -> Iterator[None]:
    with psycopg.connect(arena.system.database_url) as connection:
        connection.execute(sql.encode())
        yield
        connection.rollback()


@fault(brief=False, isolates=True)
def connections_exhausted(arena: Arena) -> None:
    """Other clients take every connection that Postgres has, and some sessions end:

    the system continues when connections are free.
    """
    with ExitStack() as strangers:
        for _ in range(1_000):
            try:
                stranger: psycopg.Connection[Any] = psycopg.connect(arena.system.database_url, autocommit=True)
            except psycopg.OperationalError:
                break
            strangers.callback(stranger.close)
        _terminate(arena, 6, of=arena.system.ask(SESSIONS.format("application_name <> ''")))
        arena.rest(FAULT_SECONDS)


@fault()
def pool_exhausted(arena: Arena) -> None:
    """Handlers hold more sessions than their worker has connections: they take turns, and no attempt is spent."""
    jobs = arena.plain(HOLDERS, act="hold", seconds=1.0)

    done = "SELECT sum(retry_count), count(completed_at) FROM proving.plain_jobs WHERE id = ANY (%s)"
    arena.wait(lambda: arena.ask(done, jobs)[0] == (0, len(jobs)), "all are done, no attempt is spent", seconds=60.0)
