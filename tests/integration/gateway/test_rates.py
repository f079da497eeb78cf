"""Limits per key: shared by all processes, never exceeded, and still there without Redis."""

import asyncio
from contextlib import asynccontextmanager
from typing import cast

import http_sf
import pytest
from redis.asyncio import Redis

from gateway.limits import RateLimits
from gateway.problems import HttpProblem
from tests.support.gateway import open_client

NOWHERE = "redis://127.0.0.1:1"


@asynccontextmanager
async def limits(url: str, count: int = 1, *, per_minute: int = 100):
    """Yield the limits of ``count`` processes."""
    made = [RateLimits(url, per_minute=per_minute) for _ in range(count)]
    yield made
    for one in made:
        await one.close()


def read_limit(header: str) -> tuple[str, dict[str, int]]:
    """Return the policy and the parameters of the one item of ``RateLimit``."""
    [item] = cast("list[tuple[str, dict[str, int]]]", http_sf.parse(header.encode(), tltype="list"))
    return item


async def admitted(one: RateLimits, key: str, requests: int) -> int:
    """Return how many of ``requests`` are admitted."""
    count = 0
    for _ in range(requests):
        try:
            await one.admit(key)
        except HttpProblem:
            continue
        count += 1
    return count


async def test_processes_share_one_bucket(redis_url):
    """Four processes together admit what one key may send, whoever asks how much."""
    async with limits(redis_url, 4, per_minute=60) as processes:
        counts = await asyncio.gather(*(admitted(one, "k", 40) for one in processes))

    # The bucket refills by one per second; a run of this test takes a few.
    assert 60 <= sum(counts) <= 75


async def test_keys_have_buckets_of_their_own(redis_url):
    """One key's load is nobody else's limit."""
    async with limits(redis_url, per_minute=10) as (one,):
        await admitted(one, "greedy", 50)

        assert await admitted(one, "modest", 10) == 10


async def test_a_fast_key_asks_redis_seldom(redis_url):
    """A call of Redis for each request would cost as much as a job's insert."""
    async with limits(redis_url, per_minute=600_000) as (one,), Redis.from_url(redis_url) as redis:
        before = (await redis.info("commandstats"))["cmdstat_evalsha"]["calls"] if await admitted(one, "k", 1) else 0
        await admitted(one, "k", 5_000)
        after = (await redis.info("commandstats"))["cmdstat_evalsha"]["calls"]

    assert after - before < 200


async def test_unused_tokens_go_back(redis_url):
    """A process that took tokens in advance and then falls idle does not keep them."""
    async with limits(redis_url, 2, per_minute=1_000) as (first, second):
        await admitted(first, "k", 100)
        bucket = first._buckets["k"]
        held, bucket.taken_at = bucket.tokens, bucket.taken_at - 10
        assert held > 0
        await admitted(first, "k", 1)

        assert await admitted(second, "k", 1_000) >= 899


async def test_without_redis_each_process_has_a_bucket(redis_url):
    """Redis away must neither stop the gateway nor remove the limit."""
    async with limits(NOWHERE, per_minute=20) as (one,):
        assert 20 <= await admitted(one, "k", 60) <= 25


async def test_the_headers_are_structured_fields(database_url, redis_url, registry):
    """Any reader of the draft understands them."""
    async with open_client(database_url, redis_url=redis_url, requests_per_minute=600) as client:
        headers = (await client.get("/v1/stages")).headers

    assert headers["ratelimit-policy"] == '"key";q=600;w=60'
    name, parameters = read_limit(headers["ratelimit"])
    assert name == "key"
    assert parameters["r"] == 599


async def test_a_refusal_names_the_policy_and_when_to_come_back(database_url, redis_url, registry):
    """Retry-After is not earlier than the header RateLimit says."""
    async with open_client(database_url, redis_url=redis_url, requests_per_minute=2) as client:
        answers = [await client.get("/v1/stages") for _ in range(3)]

    refused = answers[-1]
    assert refused.status_code == 429
    assert refused.json()["type"] == "https://iana.org/assignments/http-problem-types#quota-exceeded"
    assert refused.json()["violated-policies"] == ["key"]
    _, parameters = read_limit(refused.headers["ratelimit"])
    assert parameters["r"] == 0
    assert int(refused.headers["retry-after"]) >= parameters["t"] > 0


@pytest.mark.parametrize("key", ["k", "user:Zoë ☃"])
async def test_any_name_of_a_caller_is_a_key(redis_url, key):
    """A token's subject may be any text."""
    async with limits(redis_url, per_minute=3) as (one,):
        assert await admitted(one, key, 3) == 3
