"""The functions of :mod:`gristmill_client.sql` for asyncio: psycopg's AsyncConnection, SQLAlchemy's AsyncSession."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from gristmill_client.models import Enqueued, Job, NewJob
from gristmill_client.sql import statements
from gristmill_client.sql.adapters import AsyncRunner, Rows, StatementFailed, Values, async_runner_of
from gristmill_client.sql.waiting import wait_async as wait

__all__ = ["act_for", "cancel", "enqueue", "enqueue_many", "result", "status", "wait"]


async def enqueue(
    connection: Any,
    stage: str,
    payload: Mapping[str, Any],
    *,
    idempotency_key: str | None = None,
    priority: int | None = None,
    due_at: datetime | None = None,
    callback_url: str | None = None,
    traceparent: str | None = None,
    on_failed: Literal["return", "rerun"] | None = None,
    lane: Literal["normal", "batch"] | None = None,
    within: timedelta | None = None,
) -> Enqueued:
    """See :func:`gristmill_client.sql.enqueue`."""
    options = {
        "idempotency_key": idempotency_key,
        "priority": priority,
        "due_at": due_at,
        "callback_url": callback_url,
        "traceparent": traceparent,
        "on_failed": on_failed,
        "lane": lane,
        "within": within,
    }
    return (await enqueue_many(connection, stage, [statements.new_job(payload, options)]))[0]


async def enqueue_many(connection: Any, stage: str, jobs: Sequence[NewJob | Mapping[str, Any]]) -> list[Enqueued]:
    """See :func:`gristmill_client.sql.enqueue_many`."""
    runner = async_runner_of(connection)
    many = [(stage, text) for text in statements.jobs_text(jobs)]
    return statements.read_enqueued(await _run(runner, statements.ENQUEUE, *many)) if many else []


async def cancel(connection: Any, job_id: UUID, reason: str | None = None) -> bool:
    """See :func:`gristmill_client.sql.cancel`."""
    return bool((await _run(async_runner_of(connection), statements.CANCEL, (str(job_id), reason)))[0][0])


async def status(connection: Any, job_id: UUID) -> Job | None:
    """See :func:`gristmill_client.sql.status`."""
    return statements.read_job(await _run(async_runner_of(connection), statements.STATUS, (str(job_id),)))


async def result(connection: Any, job_id: UUID) -> dict[str, Any] | None:
    """See :func:`gristmill_client.sql.result`."""
    return statements.read_result(await _run(async_runner_of(connection), statements.RESULT, (str(job_id),)))


async def act_for(connection: Any, user_id: UUID, signature: str | None = None) -> None:
    """See :func:`gristmill_client.sql.act_for`."""
    await _run(async_runner_of(connection), statements.ACT_FOR, (str(user_id), signature or ""))


async def _run(runner: AsyncRunner, statement: str, *many: Values) -> Rows:
    try:
        return await runner.run(statement, many)
    except StatementFailed as failed:
        error = statements.translated(failed)
        raise error from error.__cause__
