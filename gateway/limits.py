"""What keeps one key, or all together, from asking too much: rates per key, and a bounded number of requests at once.

A rate is a token bucket in Redis, shared by all processes. A process takes tokens in advance, as many as it needed
lately, so that a fast client costs a call of Redis for many requests, not for each. No more tokens are given out than
the bucket holds; unused ones go back. Without Redis each process has its own bucket.
"""

import asyncio
import time
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from math import ceil
from typing import Self

import structlog
from fastapi import Request
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from gateway.problems import HttpProblem

log = structlog.get_logger(__name__)

POLICY, CONCURRENT = "key", "concurrent"
WINDOW_SECONDS = 60
REDIS_SECONDS = 0.25
# After Redis gave no answer, the process waits this long before it asks again.
REDIS_PAUSE_SECONDS = 1.0
# A process holds tokens at most this long before it gives them back.
LEASE_SECONDS = 1.0
# A lease that was used up faster than this is doubled.
FAST_SECONDS = 0.1
MAX_KEYS = 10_000
# Bodies in memory of one process. The parsed values need several times as much.
MAX_BODY_MEMORY = 128 * 1024 * 1024
_PREFIX = "gristmill:gateway:rate:"
# KEYS: the bucket. ARGV: capacity, tokens per second, wanted tokens, tokens given back.
# Returns the tokens given out, those left, and the milliseconds until the next one if there are none.
_TAKE = """
local capacity, rate = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local held = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens, at = tonumber(held[1] or capacity), tonumber(held[2] or now)
tokens = math.min(capacity, tokens + math.max(0, now - at) * rate + tonumber(ARGV[4]))
local given = math.min(tonumber(ARGV[3]), math.floor(tokens))
tokens = tokens - given
redis.call('HSET', KEYS[1], 'tokens', string.format('%.6f', tokens), 'at', string.format('%.6f', now))
redis.call('PEXPIRE', KEYS[1], math.ceil((capacity - tokens) / rate * 1000) + 1000)
local wait = 0
if tokens < 1 then wait = math.ceil((1 - tokens) / rate * 1000) end
return {given, math.floor(tokens), wait}
"""


@dataclass(slots=True)
class _Bucket:
    """What this process knows of the bucket of one key. Times are of the monotonic clock."""

    left: float
    tokens: int = 0
    taken_at: float = 0.0
    size: int = 1
    refused_until: float = 0.0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class RateLimits:
    """The rates of all keys: ``per_minute`` requests each, and as many at once after a quiet minute."""

    def __init__(self, redis_url: str, *, per_minute: int) -> None:
        self._capacity = per_minute
        self._rate = per_minute / WINDOW_SECONDS
        self._max_lease = max(1, per_minute // 100)
        self._policy = (b"ratelimit-policy", f'"{POLICY}";q={per_minute};w={WINDOW_SECONDS}'.encode())
        self._redis: Redis = Redis.from_url(
            redis_url,
            socket_timeout=REDIS_SECONDS,
            socket_connect_timeout=REDIS_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        self._take = self._redis.register_script(_TAKE)
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._away_until = 0.0

    async def close(self) -> None:
        await self._redis.aclose()

    async def admit(self, key: str) -> list[tuple[bytes, bytes]]:
        """Take one token of ``key``; return the headers of the answer. Raise a 429 if there is none."""
        bucket = self._bucket(key)
        now = time.monotonic()
        if not self._holds(bucket, now):
            async with bucket.lock:
                now = time.monotonic()
                if not self._holds(bucket, now) and now >= bucket.refused_until:
                    await self._lease(key, bucket, now)
        if bucket.tokens > 0:
            bucket.tokens -= 1
            return self._headers(bucket, ceil((self._capacity - bucket.left - bucket.tokens) / self._rate))
        wait = max(1, ceil(bucket.refused_until - now))
        headers = [(name.decode(), value.decode()) for name, value in self._headers(bucket, wait)]
        raise HttpProblem(
            "quota-exceeded",
            f"the key may send {self._capacity:,} requests per minute; the next one in {wait} s",
            headers={**dict(headers), "retry-after": str(wait)},
            violated_policies=[POLICY],
        )

    def _bucket(self, key: str) -> _Bucket:
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket(left=self._capacity)
            if len(self._buckets) > MAX_KEYS:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
        return bucket

    def _holds(self, bucket: _Bucket, now: float) -> bool:
        return bucket.tokens > 0 and now < bucket.taken_at + LEASE_SECONDS

    async def _lease(self, key: str, bucket: _Bucket, now: float) -> None:
        """Take tokens for the next requests; give back those that were not used in time."""
        if bucket.tokens:
            bucket.size = 1
        elif now < bucket.taken_at + FAST_SECONDS:
            bucket.size = min(self._max_lease, bucket.size * 2)
        unused = bucket.tokens
        bucket.tokens = 0
        given, left, wait = await self._ask(key, bucket, unused, now)
        bucket.tokens = given
        bucket.left = left
        bucket.refused_until = 0.0 if given else now + wait
        bucket.taken_at = now

    async def _ask(self, key: str, bucket: _Bucket, unused: int, now: float) -> tuple[int, float, float]:
        """Return the tokens given out, those left in the bucket, and the seconds until the next one."""
        if now >= self._away_until:
            try:
                answer = await self._take(keys=[_PREFIX + key], args=[self._capacity, self._rate, bucket.size, unused])
            except (RedisError, OSError) as error:
                self._away_until = time.monotonic() + REDIS_PAUSE_SECONDS
                log.warning(
                    "rates_per_process", error=str(error), rule="limits of keys are not shared until it is back"
                )
            else:
                return int(answer[0]), float(answer[1]), int(answer[2]) / 1_000
        elapsed = now - bucket.taken_at if bucket.taken_at else 0.0
        left = min(float(self._capacity), bucket.left + unused + elapsed * self._rate)
        given = min(bucket.size, int(left))
        return given, left - given, max(0.0, (1 - left) / self._rate)

    def _headers(self, bucket: _Bucket, seconds: int) -> list[tuple[bytes, bytes]]:
        left = int(bucket.left) + bucket.tokens
        return [self._policy, (b"ratelimit", f'"{POLICY}";r={left};t={seconds}'.encode())]


@dataclass(slots=True, eq=False)
class _Seat:
    """A request that waits for a place."""

    key: str
    given: "asyncio.Future[None]"


class Capacity:
    """How many requests run at once; the others wait in a bounded queue for a bounded time.

    One key has at most half of all places, so that others still get some, and at most ``running_per_key`` of those that
    run.
    """

    def __init__(self, *, running: int, queued: int, seconds: float, running_per_key: int | None = None) -> None:
        self._free = running
        self._max_queued = queued
        self._max_per_key = max(1, (running + queued) // 2)
        self._max_running_per_key = max(1, running if running_per_key is None else running_per_key)
        self._seconds = seconds
        self._queue: deque[_Seat] = deque()
        self._returning: deque[_Seat] = deque()
        self._of_key: Counter[str] = Counter()
        self._running_of_key: Counter[str] = Counter()

    @property
    def queue_length(self) -> int:
        """How many requests wait for a place now."""
        return len(self._queue) + len(self._returning)

    async def enter(self, key: str) -> None:
        """Take a place; whoever returns from this calls :meth:`leave`. Raise a 429 or a 503 if there is none."""
        if self._of_key[key] >= self._max_per_key:
            raise _too_many_at_once(f"the key may have {self._max_per_key} requests at once")
        if not self._can_run(key) and len(self._queue) >= self._max_queued:
            raise _busy()
        await self._take(key, self._queue, self._seconds)

    async def enter_again(self, key: str) -> None:
        """Take a place after a wait, before all who queue; never refused, because the request has had one before."""
        await self._take(key, self._returning, None)

    def leave(self, key: str) -> None:
        """Give the place to the next request."""
        _subtract(self._of_key, key)
        self._pass_on(key)

    def _can_run(self, key: str) -> bool:
        return self._free > 0 and self._running_of_key[key] < self._max_running_per_key

    def _run(self, key: str) -> None:
        self._free -= 1
        self._running_of_key[key] += 1

    async def _take(self, key: str, queue: deque[_Seat], seconds: float | None) -> None:
        self._of_key[key] += 1
        try:
            if self._can_run(key):
                self._run(key)
            else:
                await self._wait(_Seat(key, asyncio.get_running_loop().create_future()), queue, seconds)
        except BaseException:
            _subtract(self._of_key, key)
            raise

    async def _wait(self, seat: _Seat, queue: deque[_Seat], seconds: float | None) -> None:
        queue.append(seat)
        try:
            async with asyncio.timeout(seconds):
                await seat.given
        except BaseException as error:
            if seat in queue:
                queue.remove(seat)
            else:
                self._pass_on(seat.key)  # it was given in the same moment
            if isinstance(error, TimeoutError):
                raise _busy() from None
            raise

    def _pass_on(self, key: str) -> None:
        """Free a place of ``key`` and give it to the first request that may have it."""
        _subtract(self._running_of_key, key)
        self._free += 1
        for queue in (self._returning, self._queue):
            for seat in queue:
                if self._can_run(seat.key) and not seat.given.done():
                    self._run(seat.key)
                    seat.given.set_result(None)
                    queue.remove(seat)
                    return


def _subtract(counter: Counter[str], key: str, count: int = 1) -> None:
    counter[key] -= count
    if not counter[key]:
        del counter[key]


class OpenRequests:
    """How many requests of one key are open at once, also those that only wait or stream: at most ``per_key``.

    So the others still get connections.
    """

    def __init__(self, per_key: int) -> None:
        self._per_key = per_key
        self._of_key: Counter[str] = Counter()

    def enter(self, key: str) -> None:
        """Count a request; whoever returns from this calls :meth:`leave`. Raise a 429 if there are too many."""
        if self._of_key[key] >= self._per_key:
            raise _too_many_at_once(f"the key may have {self._per_key:,} requests open at once, with those that wait")
        self._of_key[key] += 1

    def leave(self, key: str) -> None:
        """Count the request no more."""
        _subtract(self._of_key, key)


def _too_many_at_once(detail: str) -> HttpProblem:
    return HttpProblem("quota-exceeded", detail, headers={"Retry-After": "1"}, violated_policies=[CONCURRENT])


def _busy() -> HttpProblem:
    return HttpProblem(
        "temporary-reduced-capacity", "too many requests run at once; try again later", headers={"Retry-After": "2"}
    )


class BodyMemory:
    """How many bytes of bodies this process has in memory: at most ``size``, and half of it for one key."""

    def __init__(self, size: int = MAX_BODY_MEMORY) -> None:
        self._left = size
        self._max_per_key = size // 2
        self._of_key: Counter[str] = Counter()

    def hold(self, key: str) -> "HeldBytes":
        """Return what counts the bytes of one body of ``key`` during its ``with`` block."""
        return HeldBytes(self, key)

    def take(self, key: str, size: int) -> None:
        """Count ``size`` more bytes; raise a 429 or a 503 if they are too many."""
        if size > self._left:
            raise _busy()
        if self._of_key[key] + size > self._max_per_key:
            raise _too_many_at_once(f"the bodies of one key may have {self._max_per_key:,} bytes at once")
        self._left -= size
        self._of_key[key] += size

    def give_back(self, key: str, size: int) -> None:
        """Count ``size`` bytes no more."""
        self._left += size
        _subtract(self._of_key, key, size)


class HeldBytes:
    """The bytes of one body that are in memory."""

    __slots__ = ("_key", "_memory", "_size")

    def __init__(self, memory: BodyMemory, key: str) -> None:
        self._memory, self._key = memory, key
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._memory.give_back(self._key, self._size)

    def add(self, size: int) -> None:
        """Count ``size`` more bytes; raise a 429 or a 503 if there are too many in memory."""
        self._memory.take(self._key, size)
        self._size += size


class Place:
    """The place of one request among those that run; it can be left while the request only waits."""

    __slots__ = ("_capacity", "_is_taken", "_key")

    def __init__(self, capacity: Capacity, key: str) -> None:
        self._capacity, self._key = capacity, key
        self._is_taken = False

    async def enter(self) -> None:
        await self._capacity.enter(self._key)
        self._is_taken = True

    async def enter_again(self) -> None:
        """Take a place after a wait; never refused."""
        await self._capacity.enter_again(self._key)
        self._is_taken = True

    def leave(self) -> None:
        """Leave the place, if it is taken."""
        if self._is_taken:
            self._is_taken = False
            self._capacity.leave(self._key)


def leave_place(request: Request) -> None:
    """Let another request run: this one only streams or waits from now on."""
    place: Place | None = request.scope["state"].get("place")
    if place is not None:
        place.leave()


@asynccontextmanager
async def without_place(request: Request) -> AsyncIterator[None]:
    """Let another request run during this block, in which the request only waits."""
    place: Place | None = request.scope["state"].get("place")
    if place is None:
        yield
        return
    place.leave()
    yield
    await place.enter_again()
