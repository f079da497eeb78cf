"""Redis loses its data, refuses writes, hangs, or disappears without closing connections."""

import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from redis import Redis
from redis.exceptions import RedisError

from tests.chaos.arena import Arena
from tests.chaos.faults import fault

MAX_RETRY_SECONDS = 60.0
OUTAGE_SECONDS = 4.0
HALF_OPEN_SECONDS = 60.0
MAX_ENQUEUE_SECONDS = 1.0


@fault()
def redis_flushed(arena: Arena) -> None:
    """FLUSHALL: every job that had a message in Redis is dispatched again; no lease is lost."""
    with _keeping_leases(arena), arena.redis() as redis:
        redis.flushall()


@fault(brief=False)
def redis_killed_and_empty(arena: Arena) -> None:
    """Redis is killed and comes back empty: enqueueing continues, no job is lost, no lease is lost."""
    servers = arena.system.servers
    with _keeping_leases(arena):
        servers.kill_valkey()
        shutil.rmtree(servers._servers["valkey"].site.home / "valkey" / "appendonlydir")
        _outage(arena, arena.draw.uniform(0, OUTAGE_SECONDS))
        servers.start_valkey()


@fault()
def redis_full(arena: Arena) -> None:
    """Redis has no memory left (maxmemory, noeviction): enqueueing continues, no job is lost, no lease is lost."""
    _refusing_writes(arena, ("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0"))


@fault()
def redis_read_only(arena: Arena) -> None:
    """Redis becomes a replica of a server that does not exist, and refuses writes:

    enqueueing continues, no job is lost, no lease is lost.
    """
    _refusing_writes(arena, ("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"))


@fault(brief=False)
def redis_without_replicas(arena: Arena) -> None:
    """Redis lacks the replicas that min-replicas-to-write demands, and refuses writes:

    enqueueing continues, no job is lost, no lease is lost.
    """
    name = "min-replicas-to-write"
    _refusing_writes(arena, ("CONFIG", "SET", name, "1"), ("CONFIG", "SET", name, "0"))


def _refusing_writes(arena: Arena, change: tuple[str, ...], undo: tuple[str, ...]) -> None:
    with _keeping_leases(arena), arena.redis() as redis:
        redis.execute_command(*change)
        try:
            _outage(arena, OUTAGE_SECONDS)
        finally:
            _retry_command(redis, undo)


def _retry_command(redis: "Redis", command: tuple[str, ...]) -> None:
    """Undo the change in Redis, which may answer slowly; raise the last error after a minute."""
    give_up = time.monotonic() + MAX_RETRY_SECONDS
    while True:
        try:
            redis.execute_command(*command)
        except RedisError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.1)
        else:
            return


@fault(brief=False)
def redis_stalled(arena: Arena) -> None:
    """Redis stops answering for some seconds and then continues:

    enqueueing continues, no job is lost, no lease is lost.
    """
    process = arena.system.servers._servers["valkey"]._process
    assert process is not None
    with _keeping_leases(arena):
        process.send_signal(signal.SIGSTOP)
        try:
            _outage(arena, OUTAGE_SECONDS)
        finally:
            process.send_signal(signal.SIGCONT)


@fault(brief=False)
def redis_unreachable(arena: Arena) -> None:
    """Every connection to Redis is reset, and new ones are refused for some seconds:

    enqueueing continues, no job is lost, no lease is lost.
    """
    with _keeping_leases(arena), arena.redis_proxy.refusing():
        _outage(arena, OUTAGE_SECONDS)


@fault(brief=False, heals_within=HALF_OPEN_SECONDS)
def redis_half_open(arena: Arena) -> None:
    """Every open connection to Redis becomes half-open: each is detected and replaced within a minute."""
    with _keeping_leases(arena):
        arena.redis_proxy.silence()


def _outage(arena: Arena, seconds: float) -> None:
    """Let the fault last; in the middle, check that an enqueue succeeds in time."""
    arena.rest(seconds / 2)
    started = time.monotonic()
    arena.plain(1)
    took = time.monotonic() - started
    arena.promise_within(took, MAX_ENQUEUE_SECONDS, "an enqueue")
    arena.rest(seconds / 2)


@contextmanager
def _keeping_leases(arena: Arena) -> Iterator[None]:
    """Check later that no worker lost a lease because of the block, when such a loss would be visible."""
    since, workers = time.time(), list(arena.crew.worker_ids())
    yield

    def look() -> None:
        lost = arena.leases_lost(workers, since=since)
        arena.promise(not lost, f"{lost} runs were rescued from living workers")

    arena.afterwards.append(look)
