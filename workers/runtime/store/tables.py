"""The names a kernel statement needs of one job table, read from its model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, cast
from uuid import UUID

from psycopg import AsyncCursor
from sqlalchemy import Enum, Table, inspect
from sqlalchemy.dialects import postgresql

from models.lifecycle import Job, Lifecycle
from workers.runtime.loaders import fetch_carefully
from workers.runtime.undecodable import Undecodable, first_undecodable


@dataclass(frozen=True, slots=True, eq=False)  # one per model: identity is equality, and the key of cached SQL
class JobTable:
    """One job table: its quoted name, its lifecycle, and ``column[attribute]`` as quoted identifiers.

    ``status_type`` is the SQL type of the status column, an enum where a seed has one: what a statement computes as
    text is cast to it. ``enums`` are the attributes of such types.
    """

    model: type[Job]
    name: str
    label: str
    lifecycle: Lifecycle
    status_type: str
    column: Mapping[str, str]
    attribute: Mapping[str, str]
    enums: tuple[str, ...]

    @property
    def progress_at_end(self) -> str:
        """The progress of row ``j`` as it fails or is cancelled, as a SQL expression."""
        return "100" if self.lifecycle.ends_at_full_progress else f"j.{self.column['progress']}"

    def jobs(self, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[Job]:
        """Return a detached model instance per row; ``columns`` are the rows' column names.

        Built without a session, as loading would build them: the hot path pays no ORM for it.
        """
        attributes = [self.attribute[name] for name in columns]
        new_instance = inspect(self.model).class_manager.new_instance
        jobs: list[Job] = []
        for row in rows:
            job: Job = new_instance()
            job.__dict__.update(zip(attributes, row, strict=True))
            for name in self.enums:  # which the driver does not know, and hands over as they came
                if isinstance(value := job.__dict__.get(name), bytes):
                    job.__dict__[name] = value.decode()
            jobs.append(job)
        return jobs


async def loaded_jobs(t: JobTable, cursor: AsyncCursor[Any]) -> list[Job]:
    """Return the jobs that ``cursor`` found, each with why it cannot be read, if it cannot (:func:`unreadable`)."""
    made = Undecodable.made
    rows = await fetch_carefully(cursor)
    jobs = t.jobs([column.name for column in cursor.description or ()], rows)
    if Undecodable.made != made:  # else there is nothing to look for
        for job in jobs:
            job.__dict__[_UNREADABLE] = first_undecodable((name, job.__dict__.get(name)) for name in t.column)
    return jobs


_UNREADABLE = "_gristmill_unreadable"


def unreadable(job: Job) -> str | None:
    """Return which value of a claimed job cannot be read and why; None where its handler can have it."""
    reason: str | None = job.__dict__.get(_UNREADABLE)
    return reason


def mark_unreadable(job: Job, reason: str) -> None:
    """Have :func:`unreadable` return ``reason``: Postgres itself could not hand out the job's row."""
    job.__dict__[_UNREADABLE] = reason


# What every statement on a batch of runs reads: ``tickets`` by position, and its rows by primary key. ``ANY`` makes the
# planner walk just these keys of the index, whatever it believes of the table; a state belongs inside ``CASE``, which
# matches no partial index and is never thought to be rare. Without both, under statistics of another hour, a claim of
# 512 of 20,000 rows read all of them and compared each pair (140 ms instead of 12).
TICKETS = "unnest(%(ids)s::uuid[], %(versions)s::int[]) AS u(id, version)"


def tickets(runs: Sequence[tuple[UUID, int]]) -> dict[str, str]:
    """Return the values of :data:`TICKETS`, as Postgres reads arrays: the driver's own way costs thrice as much."""
    return {
        "ids": "{" + ",".join([id.hex for id, _ in runs]) + "}",
        "versions": "{" + ",".join([str(version) for _, version in runs]) + "}",
    }


@cache
def job_table(model: type[Job]) -> JobTable:
    """Return the table of ``model``."""
    mapper = inspect(model)
    columns = {attribute.key: attribute.columns[0].name for attribute in mapper.column_attrs}
    table = cast("Table", model.__table__)
    return JobTable(
        model=model,
        name=f'"{table.schema}"."{table.name}"',
        label=f"{table.schema}.{table.name}",
        lifecycle=model.__lifecycle__,
        status_type=mapper.attrs["status"].columns[0].type.compile(dialect=postgresql.dialect()),  # type: ignore[no-untyped-call]
        column={key: f'"{name}"' for key, name in columns.items()},
        attribute={name: key for key, name in columns.items()},
        enums=tuple(one.key for one in mapper.column_attrs if isinstance(one.columns[0].type, Enum)),
    )
