"""The road to the workers: Celery messages through Redis, and a sentinel key that tells when Redis lost its data."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import structlog
from celery import Celery
from kombu import Connection, Producer
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from workers.runtime.handler.registry import Stage
from workers.runtime.store.dispatch import Picked

log = structlog.get_logger(__name__)

SENTINEL = "gristmill:sentinel"
# Postgres ends the session of a leader that is silent for three seconds: no wait of the road's may come near that.
ANSWER_SECONDS = 1.0
_TIMEOUTS: dict[str, Any] = {"socket_timeout": ANSWER_SECONDS, "socket_connect_timeout": ANSWER_SECONDS}


class CeleryRoad:
    """Publishes batches; implements :class:`workers.runtime.dispatch.road.Road`."""

    def __init__(self, app: Celery, redis_url: str) -> None:
        self._app = app
        # Tried once: the driver's own tries would each take that long. The next look is the next try.
        self._redis: Redis = Redis.from_url(redis_url, retry=Retry(NoBackoff(), 0), **_TIMEOUTS)
        self._connection: Connection | None = None
        self._producer: Producer | None = None

    async def publish(self, stage: Stage, batch: Sequence[Picked]) -> None:
        """Publish one message with ``[[id, version], …]``; raise on any trouble, after dropping the connection."""
        await asyncio.to_thread(self._publish, stage, [[str(job.id), job.version] for job in batch])

    def _publish(self, stage: Stage, batch: list[list[Any]]) -> None:
        try:
            if self._producer is None:
                self._connection = self._app.connection_for_write(transport_options=_TIMEOUTS | {"max_retries": 0})
                self._producer = self._app.amqp.Producer(self._connection, auto_declare=False)
            self._app.send_task(
                stage.name, args=[batch], queue=stage.queue, producer=self._producer, retry=False, ignore_result=True
            )
        except Exception:
            self._drop()
            raise

    def _drop(self) -> None:
        connection, self._connection, self._producer = self._connection, None, None
        if connection is not None:
            with suppress(Exception):  # closing what is broken
                connection.release()

    async def lost_everything(self) -> bool:
        """Set the sentinel if it is gone, and tell whether it was: only a Redis that lost its data has none."""
        return bool(await self._redis.set(SENTINEL, "1", nx=True))

    async def is_empty(self, queue: str) -> bool:
        """Tell whether no message of ``queue`` waits to be taken."""
        return not await self._redis.llen(queue)

    async def close(self) -> None:
        """Close both connections."""
        self._drop()
        await self._redis.aclose()
