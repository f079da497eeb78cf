"""Enqueue and follow jobs over the service's own connection to Gristmill's Postgres, in its own transaction.

Each function takes the caller's connection: of psycopg, SQLAlchemy (Session, Connection), Django, or a DB-API driver
with ``%s`` parameters; the async ones are in :mod:`gristmill_client.sql.aio`. Nothing commits the caller's transaction.
A refused call raises :class:`gristmill_client.Refused` and leaves the transaction as it was before the call, by a
savepoint. The job starts after the caller has committed.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from gristmill_client.models import Enqueued, Job, NewJob
from gristmill_client.sql import statements
from gristmill_client.sql.adapters import Rows, Runner, StatementFailed, Values, runner_of
from gristmill_client.sql.waiting import wait

__all__ = ["act_for", "cancel", "enqueue", "enqueue_many", "result", "status", "wait"]


def enqueue(
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
    """Enqueue one job. A repeated key returns the first job; with other content it is refused.

    ``on_failed="rerun"`` makes a new job if the first job of the key failed or was cancelled. Raise Refused.
    """
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
    return enqueue_many(connection, stage, [statements.new_job(payload, options)])[0]


def enqueue_many(connection: Any, stage: str, jobs: Sequence[NewJob | Mapping[str, Any]]) -> list[Enqueued]:
    """Enqueue many jobs of one stage, 5,000 with one statement; return them in the order of ``jobs``.

    A job is a :class:`NewJob` or a mapping with the same members. If one is refused, none is enqueued. Raise Refused
    with the ``position`` of the job.
    """
    runner = runner_of(connection)
    many = [(stage, text) for text in statements.jobs_text(jobs)]
    return statements.read_enqueued(_run(runner, statements.ENQUEUE, *many)) if many else []


def cancel(connection: Any, job_id: UUID, reason: str | None = None) -> bool:
    """Cancel a job that is ready, running or waiting; return False if it has ended or is not yours."""
    return bool(_run(runner_of(connection), statements.CANCEL, (str(job_id), reason))[0][0])


def status(connection: Any, job_id: UUID) -> Job | None:
    """Return a job as this transaction sees it; None if it sees no such job."""
    return statements.read_job(_run(runner_of(connection), statements.STATUS, (str(job_id),)))


def result(connection: Any, job_id: UUID) -> dict[str, Any] | None:
    """Return what a completed job found, by name; None before, after another end, or if the job is not seen."""
    return statements.read_result(_run(runner_of(connection), statements.RESULT, (str(job_id),)))


def act_for(connection: Any, user_id: UUID, signature: str | None = None) -> None:
    """Act for this user until the transaction ends. Strict mode needs the signature (docs/security.md)."""
    _run(runner_of(connection), statements.ACT_FOR, (str(user_id), signature or ""))


def _run(runner: Runner, statement: str, *many: Values) -> Rows:
    try:
        return runner.run(statement, many)
    except StatementFailed as failed:
        error = statements.translated(failed)
        raise error from error.__cause__
