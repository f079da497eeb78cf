"""Wait until a job has ended, by ``LISTEN gristmill_done`` and by looking at intervals.

Never inside a transaction of the caller. The job does not start before the caller has committed, so such a wait would
never end; Postgres delivers notifications only between transactions; and a transaction that stays open for long holds
back the cleaning of all tables. So :func:`wait` takes a connection that is in no transaction, or an engine.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

from gristmill_client.errors import NotPossible, Refused
from gristmill_client.models import Job
from gristmill_client.sql import statements
from gristmill_client.sql.adapters import AsyncPsycopg, DbApi, Psycopg, StatementFailed, has_transaction, is_a

# A notification can be lost with its connection, so the row is read at intervals too. Drivers without notifications
# (all but psycopg 3) read it more often.
LOOK_SECONDS = 5.0
LOOK_SECONDS_WITHOUT_NEWS = 1.0
# A longer payload, or one that lists no job, may not name every job.
MAX_COMPLETE_NEWS = 7_800

LISTEN, UNLISTEN = "LISTEN gristmill_done", "UNLISTEN gristmill_done"


def wait(
    connection: Any,
    job_id: UUID,
    *,
    timeout: float | timedelta | None = None,
    user_id: UUID | None = None,
    user_signature: str | None = None,
) -> Job:
    """Return the job when it has ended, or as it is after ``timeout`` seconds. None: wait as long as it takes.

    ``connection`` is a psycopg or DB-API connection in autocommit mode, an Engine of SQLAlchemy, or Django's connection
    outside ``atomic()``. It must be used by nobody else meanwhile. ``user_id`` is the user for whom the service acts.
    Raise NotPossible in a transaction, and Refused if the job is not seen.
    """
    ends = _end_of(timeout)
    with _opened(connection) as (raw, runner):
        hears = is_a(raw, "psycopg", "Connection")
        if hears:
            raw.execute(LISTEN)
        try:
            while True:
                job = _look(runner, job_id, user_id, user_signature)
                if job.has_ended or (left := ends - time.monotonic()) <= 0:
                    return job
                if hears:
                    _hear(raw, job_id, min(left, LOOK_SECONDS))
                else:
                    time.sleep(min(left, LOOK_SECONDS_WITHOUT_NEWS))
        finally:
            if hears and not raw.closed:
                raw.execute(UNLISTEN)


async def wait_async(
    connection: Any,
    job_id: UUID,
    *,
    timeout: float | timedelta | None = None,
    user_id: UUID | None = None,
    user_signature: str | None = None,
) -> Job:
    """Do what :func:`wait` does, with a psycopg AsyncConnection in autocommit mode or an AsyncEngine of SQLAlchemy."""
    ends = _end_of(timeout)
    async with _async_opened(connection) as raw:
        await raw.execute(LISTEN)
        try:
            while True:
                job = await _async_look(raw, job_id, user_id, user_signature)
                if job.has_ended or (left := ends - time.monotonic()) <= 0:
                    return job
                await _async_hear(raw, job_id, min(left, LOOK_SECONDS))
        finally:
            if not raw.closed:
                await asyncio.shield(raw.execute(UNLISTEN))


def _end_of(timeout: float | timedelta | None) -> float:
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    return float("inf") if seconds is None else time.monotonic() + seconds


@contextmanager
def _opened(connection: Any) -> Iterator[tuple[Any, DbApi]]:
    """Yield the driver's connection, in autocommit mode, and its runner."""
    if is_a(connection, "sqlalchemy", "Engine"):
        with connection.connect().execution_options(isolation_level="AUTOCOMMIT") as opened:
            raw = opened.connection.driver_connection
            yield raw, _runner(raw)
        return
    if is_a(connection, "sqlalchemy", "Connection") or is_a(connection, "sqlalchemy.orm", "Session", "scoped_session"):
        raise NotPossible("wait takes the engine, not a session or connection: they are in a transaction")
    raw = connection
    if hasattr(connection, "ensure_connection"):  # Django's
        if connection.in_atomic_block:
            raise NotPossible("wait cannot work inside atomic(): the job starts after you commit")
        connection.ensure_connection()
        raw = connection.connection
    if not getattr(raw, "autocommit", False) or (is_a(raw, "psycopg", "Connection") and has_transaction(raw)):
        raise NotPossible(
            "wait needs a connection in autocommit mode and in no transaction: the job starts after you commit"
        )
    yield raw, _runner(raw)


def _runner(raw: Any) -> DbApi:
    return Psycopg(raw) if is_a(raw, "psycopg", "Connection") else DbApi(raw)


@asynccontextmanager
async def _async_opened(connection: Any) -> AsyncIterator[Any]:
    if is_a(connection, "sqlalchemy.ext.asyncio", "AsyncEngine"):
        async with connection.connect() as opened:
            await opened.execution_options(isolation_level="AUTOCOMMIT")
            raw = (await opened.get_raw_connection()).driver_connection
            if not is_a(raw, "psycopg", "AsyncConnection"):
                raise NotPossible(f"wait needs the driver psycopg, got {type(raw).__module__}")
            yield raw
        return
    if not is_a(connection, "psycopg", "AsyncConnection"):
        raise NotPossible(f"wait takes a psycopg AsyncConnection or an AsyncEngine, got {type(connection).__name__}")
    if has_transaction(connection):
        raise NotPossible(
            "wait needs a connection in autocommit mode and in no transaction: the job starts after you commit"
        )
    yield connection


def _look(runner: DbApi, job_id: UUID, user_id: UUID | None, signature: str | None) -> Job:
    statement, values = _question(job_id, user_id, signature)
    try:
        rows = runner.run(statement, [values])
    except StatementFailed as failed:
        error = statements.translated(failed)
        raise error from error.__cause__
    return _found(rows, job_id)


async def _async_look(raw: Any, job_id: UUID, user_id: UUID | None, signature: str | None) -> Job:
    statement, values = _question(job_id, user_id, signature)
    try:
        rows = await AsyncPsycopg(raw).run(statement, [values])
    except StatementFailed as failed:
        error = statements.translated(failed)
        raise error from error.__cause__
    return _found(rows, job_id)


def _question(job_id: UUID, user_id: UUID | None, signature: str | None) -> tuple[str, tuple[str | None, ...]]:
    """Return one statement, which in autocommit mode is a transaction: the user acts only in it."""
    if user_id is None:
        return statements.STATUS, (str(job_id),)
    return statements.STATUS_FOR, (str(user_id), signature or "", str(job_id))


def _found(rows: list[tuple[Any, ...]], job_id: UUID) -> Job:
    job = statements.read_job(rows)
    if job is None:
        rule = "must be the id of a job that you may see"
        raise Refused(f"job_id {rule}, got '{job_id}'", field="job_id", rule=rule, value=str(job_id), code="not_found")
    return job


def _hear(raw: Any, job_id: UUID, seconds: float) -> None:
    """Return when news of the job came, or after ``seconds``."""
    ends = time.monotonic() + seconds
    while (left := ends - time.monotonic()) > 0:
        for news in raw.notifies(timeout=left, stop_after=1):
            if _may_be_about(news, job_id):
                return


async def _async_hear(raw: Any, job_id: UUID, seconds: float) -> None:
    ends = time.monotonic() + seconds
    while (left := ends - time.monotonic()) > 0:
        async for news in raw.notifies(timeout=left, stop_after=1):
            if _may_be_about(news, job_id):
                return


def _may_be_about(news: Any, job_id: UUID) -> bool:
    if news.channel != "gristmill_done":
        return False
    payload: str = news.payload
    return f"{job_id}:" in payload or ":" not in payload or len(payload) > MAX_COMPLETE_NEWS
