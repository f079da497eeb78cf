"""Publish batches to the workers as Celery messages in Redis. A sentinel key shows whether Redis lost its data."""

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
# Postgres ends the session of a leader that is silent for three seconds, so each wait for Redis must be much shorter.
REDIS_ANSWER_SECONDS = 1.0
_TIMEOUTS: dict[str, Any] = {"socket_timeout": REDIS_ANSWER_SECONDS, "socket_connect_timeout": REDIS_ANSWER_SECONDS}


class CeleryRoad:
    """Publishes batches; implements :class:`workers.runtime.dispatch.road.Road`."""

    def __init__(self, app: Celery, redis_url: str) -> None:
        self._app = app
        # No retry by the driver: each try could take a full timeout. The dispatcher's next pass is the next try.
        self._redis: Redis = Redis.from_url(redis_url, retry=Retry(NoBackoff(), 0), **_TIMEOUTS)
        self._connection: Connection | None = None
        self._producer: Producer | None = None

    async def publish(self, stage: Stage, batch: Sequence[Picked]) -> None:
        """Publish one message with ``[[id, version], …]``. On any error, close the connection and raise."""
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
            with suppress(Exception):  # the connection may be broken
                connection.release()

    async def lost_everything(self) -> bool:
        """Return whether Redis lost its data: the sentinel key was missing. Set it again."""
        return bool(await self._redis.set(SENTINEL, "1", nx=True))

    async def is_empty(self, queue: str) -> bool:
        """Return whether no message waits in ``queue``."""
        return not await self._redis.llen(queue)

    async def close(self) -> None:
        """Close both connections."""
        self._drop()
        await self._redis.aclose()
