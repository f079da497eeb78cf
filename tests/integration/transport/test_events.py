"""Job events on a real Redis: all of them reach whoever listens, and next to nothing is said to nobody."""

import json
import uuid
from base64 import b64decode
from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis
from redis.client import PubSub

from gristmill_testing.waiting import until
from workers.runtime.handler.context import Run
from workers.runtime.handler.registry import Registry
from workers.transport.app import create_app
from workers.transport.events import JOBS_PER_FLUSH, EventStream


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    """A client of the test's Redis, its statistics at zero."""
    with Redis.from_url(redis_url) as redis:
        redis.config_resetstat()
        yield redis


@pytest.fixture
def stream(redis_url: str, registry: Registry) -> Iterator[EventStream]:
    """A started stream of events."""
    stream = EventStream(create_app(redis_url, registry), "worker@here")
    stream.start()
    yield stream
    stream.stop()


# So few that all are shown, whenever they come.
JOBS = JOBS_PER_FLUSH // 4


def start(stream: EventStream) -> list[str]:
    """Start some jobs; return of which each event is, in order: each job is received, then started."""
    runs = [Run("proving.plain", uuid.uuid4(), 2, 1) for _ in range(JOBS)]
    for run in runs:
        stream.started(run)
    return [str(run.job_id) for run in runs for _ in range(2)]


def published(redis: Redis) -> int:
    """Return how many messages were published, to anybody or nobody."""
    return int(redis.info("commandstats").get("cmdstat_publish", {}).get("calls", 0))


async def hear(listener: PubSub, count: int) -> list[str]:
    """Return the jobs named by the next events, in their order, once so many have come."""
    jobs: list[str] = []

    def enough() -> bool:
        while message := listener.get_message():
            if message["type"] == "pmessage":
                body = json.loads(b64decode(json.loads(message["data"])["body"]))
                events: list[dict[str, Any]] = body if isinstance(body, list) else [body]
                jobs.extend(event["uuid"] for event in events)
        return len(jobs) >= count

    await until(enough)
    return jobs


async def test_whoever_listens_hears_of_every_job_in_order(redis: Redis, stream: EventStream) -> None:
    """Nothing is lost to the look whether somebody listens, whenever the listener came."""
    start(stream)
    await until(lambda: published(redis))
    with redis.pubsub() as listener:
        listener.psubscribe("*celeryev*")
        listener.get_message(timeout=5.0)
        first = start(stream)
        jobs = await hear(listener, len(first))
        second = start(stream)
        jobs += await hear(listener, len(second))

    assert jobs == first + second
    assert stream.dropped == stream.hidden == 0


async def test_one_event_in_each_list_is_all_that_nobody_is_told(redis: Redis, stream: EventStream) -> None:
    """Where nobody listens, fifty events are one message of one event, and none waits or counts as dropped."""
    before = redis.info("stats")["total_net_input_bytes"]
    told = start(stream)
    await until(lambda: published(redis))
    stream.stop()

    assert published(redis) == 1
    assert redis.info("stats")["total_net_input_bytes"] - before < 100 * len(told)
    assert stream.dropped == 0
