"""Redis that loses its data, refuses to be written, hangs, or vanishes without a word."""

import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from redis import Redis
from redis.exceptions import RedisError

from tests.chaos.arena import Arena
from tests.chaos.faults import fault

INSISTED_SECONDS = 60.0
OUTAGE_SECONDS = 4.0
HALF_OPEN_SECONDS = 60.0
ENQUEUED_WITHIN = 1.0


@fault()
def redis_flushed(arena: Arena) -> None:
    """FLUSHALL: every job that was on the road is dispatched again; no lease is lost."""
    with _keeping_leases(arena), arena.redis() as redis:
        redis.flushall()


@fault(brief=False)
def redis_killed_and_empty(arena: Arena) -> None:
    """Redis is killed and comes back empty: enqueue goes on, nothing is lost, no lease is lost."""
    servers = arena.system.servers
    with _keeping_leases(arena):
        servers.kill_valkey()
        shutil.rmtree(servers._servers["valkey"].site.home / "valkey" / "appendonlydir")
        _outage(arena, arena.draw.uniform(0, OUTAGE_SECONDS))
        servers.start_valkey()


@fault()
def redis_full(arena: Arena) -> None:
    """Redis has no memory left (maxmemory, noeviction): enqueue goes on, nothing is lost, no lease is lost."""
    _refusing_writes(arena, ("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0"))


@fault()
def redis_read_only(arena: Arena) -> None:
    """Redis has become a replica of nobody and refuses writes: enqueue goes on, nothing is lost, no lease is lost."""
    _refusing_writes(arena, ("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"))


@fault(brief=False)
def redis_without_replicas(arena: Arena) -> None:
    """Redis misses the replicas it must write to (min-replicas-to-write): as when it is read-only."""
    name = "min-replicas-to-write"
    _refusing_writes(arena, ("CONFIG", "SET", name, "1"), ("CONFIG", "SET", name, "0"))


def _refusing_writes(arena: Arena, hurt: tuple[str, ...], heal: tuple[str, ...]) -> None:
    with _keeping_leases(arena), arena.redis() as redis:
        redis.execute_command(*hurt)
        try:
            _outage(arena, OUTAGE_SECONDS)
        finally:
            _insist(redis, heal)


def _insist(redis: "Redis", command: tuple[str, ...]) -> None:
    """Undo what was done to Redis, which may be slow to answer after it; raise its last error after a minute."""
    give_up = time.monotonic() + INSISTED_SECONDS
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
    """Redis stops answering for some seconds and goes on: enqueue goes on, nothing is lost, no lease is lost."""
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
    """Every connection to Redis is reset and new ones are refused for a while: as when Redis is away."""
    with _keeping_leases(arena), arena.redis_road.refusing():
        _outage(arena, OUTAGE_SECONDS)


@fault(brief=False, heals_within=HALF_OPEN_SECONDS)
def redis_half_open(arena: Arena) -> None:
    """Every open connection to Redis falls silent for good: each is found dead and replaced within a minute."""
    with _keeping_leases(arena):
        arena.redis_road.silence()


def _outage(arena: Arena, seconds: float) -> None:
    """Let the fault last, and check in its midst that enqueue succeeds whatever Redis does."""
    arena.rest(seconds / 2)
    started = time.monotonic()
    arena.plain(1)
    took = time.monotonic() - started
    arena.promise_within(took, ENQUEUED_WITHIN, "an enqueue")
    arena.rest(seconds / 2)


@contextmanager
def _keeping_leases(arena: Arena) -> Iterator[None]:
    """Have it judged, once a lease lost by it would have been missed, that nobody lost one by the block."""
    since, workers = time.time(), list(arena.crew.worker_ids())
    yield

    def look() -> None:
        lost = arena.leases_lost(workers, since=since)
        arena.promise(not lost, f"{lost} runs were taken from living workers")

    arena.afterwards.append(look)
