"""The real statements on a real Postgres, called one after the other, each on a connection of its usual role."""

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Any, NamedTuple, Self, TypeVar
from uuid import UUID

import psycopg
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from models.lifecycle import Job
from tests.conftest import sqlalchemy_url
from tests.support.proving.schema import MODELS
from workers.runtime.database import KERNEL_PINS, Database, Raw
from workers.runtime.enqueue import Enqueued, enqueue_many
from workers.runtime.store.tables import job_table

T = TypeVar("T")
LEADER, OPERATOR, SERVICE, BEAT = "dispatcher:leader", "operator", "service", "beat:one"


class StoredRow(NamedTuple):
    """The values of a job's row that are compared. Of times, only whether they are set."""

    status: str
    version: int
    retry_count: int
    max_retries: int
    ticket: bool
    due: bool
    owner: UUID | None
    progress: int
    started: bool
    ended: bool
    under_deadline: bool
    waits: bool
    error: str | None
    result: Any


class RealStore:
    """One connection per role, on an event loop of its own."""

    def __init__(self, url: str, workers: Sequence[UUID]) -> None:
        self._loop = asyncio.Runner()
        self._open = AsyncExitStack()
        self._engine = create_engine(
            sqlalchemy_url(url), pool_size=1, connect_args={"options": f"-c gristmill.changed_by={SERVICE}"}
        )
        self._psql = psycopg.connect(url, autocommit=True)
        names = [LEADER, OPERATOR, BEAT, *(f"worker:{worker}" for worker in workers)]
        self._connections = {name: self.run(self._connect(url, name)) for name in names}

    async def _connect(self, url: str, name: str) -> Raw:
        database = Database(url, changed_by=name)
        return await self._open.enter_async_context(await database.listen(settings=KERNEL_PINS))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.dispose()
        self._psql.close()
        self.run(self._open.aclose())
        self._loop.close()

    def run(self, statement: Coroutine[Any, Any, T]) -> T:
        return self._loop.run(statement)

    def by(self, name: str) -> Raw:
        """Return the connection of that role."""
        return self._connections[name]

    def enqueue(self, stage: str, jobs: Sequence[dict[str, Any]]) -> list[Enqueued]:
        with Session(self._engine) as session, session.begin():
            return enqueue_many(session, stage, jobs)

    def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Execute any statement, as a person in psql; return its rows."""
        cursor = self._psql.execute(statement.encode(), values or None)
        return cursor.fetchall() if cursor.description else []

    def empty(self) -> None:
        """Delete all jobs, their history and the workers; resume all stages."""
        for table in (*(job_table(model).name for model in MODELS), "runtime.transitions", "runtime.workers"):
            self.sql(f"DELETE FROM {table}")
        self.sql("UPDATE runtime.stages SET paused_at = NULL, paused_by = NULL")

    def update(self, model: type[Job], change: str, ids: Sequence[UUID]) -> None:
        """Change times or attempts of jobs; nothing that is a transition."""
        self.sql(f"UPDATE {job_table(model).name} SET {change} WHERE id = ANY (%s)", list(ids))

    def end_waits(self, model: type[Job], ids: Sequence[UUID]) -> None:
        """Move the deadlines of these waits into the past, without the guards, as if time had passed."""
        name = job_table(model).name
        self.sql("SET session_replication_role = replica")
        self.sql(f"UPDATE {name} SET wait_until = now() - interval '1 second' WHERE id = ANY (%s)", list(ids))
        self.sql("SET session_replication_role = origin")

    def reasons(self, model: type[Job], ids: Sequence[UUID]) -> list[tuple[Any, ...]]:
        """Return the id and the reason of the last change of each of these jobs."""
        return self.sql(f"SELECT id, change_reason FROM {job_table(model).name} WHERE id = ANY (%s)", list(ids))

    def created_at(self, model: type[Job], ids: Sequence[UUID]) -> dict[UUID, datetime]:
        return dict(self.sql(f"SELECT id, created_at FROM {job_table(model).name} WHERE id = ANY (%s)", list(ids)))

    def everything(self) -> tuple[dict[UUID, StoredRow], list[tuple[Any, ...]]]:
        """Return every job, and every transition ordered by job and version."""
        with self._psql.pipeline():
            rows, history = self._psql.execute(_ROWS.encode()), self._psql.execute(_HISTORY)
            return {row[0]: StoredRow(*row[1:]) for row in rows}, history.fetchall()


def _wait_until(model: type[Job]) -> str:
    return model.__lifecycle__.deadline or "NULL::timestamptz"


_ROWS = " UNION ALL ".join(
    f"""SELECT id, status, version, retry_count, max_retries, dispatched_at IS NOT NULL, due_at IS NOT NULL,
               lease_owner, progress, started_at IS NOT NULL, completed_at IS NOT NULL,
               deadline_at IS NOT NULL, {_wait_until(model)} IS NOT NULL, error_message, result
          FROM {job_table(model).name}"""
    for model in MODELS
)
_HISTORY = """
    SELECT job_id, version_from, version_to, stage, old_state, new_state, change_action, change_reason, changed_by
      FROM runtime.transitions ORDER BY job_id, version_to, created_at"""
