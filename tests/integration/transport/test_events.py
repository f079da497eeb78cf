"""Job events on a real Redis: every listener gets all of them, and without a listener almost nothing is sent."""

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
    """A client of the test's Redis with reset statistics."""
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


# Few enough to be shown all.
JOBS = JOBS_PER_FLUSH // 4


def start(stream: EventStream) -> list[str]:
    """Start some jobs; return the job of each event in order. Each job has two events: received and started."""
    runs = [Run("proving.plain", uuid.uuid4(), 2, 1) for _ in range(JOBS)]
    for run in runs:
        stream.started(run)
    return [str(run.job_id) for run in runs for _ in range(2)]


def published(redis: Redis) -> int:
    """Return how many messages were published, with or without a receiver."""
    return int(redis.info("commandstats").get("cmdstat_publish", {}).get("calls", 0))


async def hear(listener: PubSub, count: int) -> list[str]:
    """Return the jobs of the next ``count`` events, in their order."""
    jobs: list[str] = []

    def have_come() -> bool:
        while message := listener.get_message():
            if message["type"] == "pmessage":
                body = json.loads(b64decode(json.loads(message["data"])["body"]))
                events: list[dict[str, Any]] = body if isinstance(body, list) else [body]
                jobs.extend(event["uuid"] for event in events)
        return len(jobs) >= count

    await until(have_come)
    return jobs


async def test_a_listener_gets_the_events_of_every_job_in_order(redis: Redis, stream: EventStream) -> None:
    """No event is lost by the check for listeners, whenever the listener connects."""
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


async def test_without_a_listener_one_event_of_each_list_is_published(redis: Redis, stream: EventStream) -> None:
    """Without a listener fifty events become one message with one event. No event waits or counts as dropped."""
    before = redis.info("stats")["total_net_input_bytes"]
    jobs = start(stream)
    await until(lambda: published(redis))
    stream.stop()

    assert published(redis) == 1
    assert redis.info("stats")["total_net_input_bytes"] - before < 100 * len(jobs)
    assert stream.dropped == 0
