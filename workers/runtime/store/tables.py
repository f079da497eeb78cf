"""The names of one job table that kernel statements need, read from its model."""

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

# The name under which a claimed job has the time since which it was ready: its last change before the claim.
READY_SINCE = "ready_since"


@dataclass(frozen=True, slots=True, eq=False)  # one per model: identity is equality, and the key of cached SQL
class JobTable:
    """One job table: its quoted name, its lifecycle, and ``column[attribute]`` as quoted identifiers.

    ``status_type`` is the SQL type of the status column, an enum in some tables: statements cast a computed text to it.
    ``enums`` are the attributes with an enum type.
    """

    model: type[Job]
    name: str
    label: str
    lifecycle: Lifecycle
    status_type: str
    column: Mapping[str, str]
    attribute: Mapping[str, str]
    enums: tuple[str, ...]

    def type_of(self, attribute: str) -> str:
        """Return the SQL type of a column: statements cast a text to it."""
        column = inspect(self.model).attrs[attribute].columns[0]
        return str(column.type.compile(dialect=postgresql.dialect()))  # type: ignore[no-untyped-call]

    @property
    def progress_at_end(self) -> str:
        """The progress of row ``j`` after it fails or is cancelled, as a SQL expression."""
        return "100" if self.lifecycle.ends_at_full_progress else f"j.{self.column['progress']}"

    def jobs(self, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[Job]:
        """Return a detached model instance per row; ``columns`` are the rows' column names.

        They are built without a session and equal loaded ones: code that runs once per job must not use the ORM.
        """
        # A newer release may have added columns. This release does not know what they mean.
        known = [place for place, name in enumerate(columns) if name in self.attribute or name == READY_SINCE]
        attributes = [self.attribute.get(columns[place], columns[place]) for place in known]
        if len(known) < len(columns):
            rows = [[row[place] for place in known] for row in rows]
        new_instance = inspect(self.model).class_manager.new_instance
        jobs: list[Job] = []
        for row in rows:
            job: Job = new_instance()
            job.__dict__.update(zip(attributes, row, strict=True))
            for name in self.enums:  # the driver does not know enum types and returns bytes
                if isinstance(value := job.__dict__.get(name), bytes):
                    job.__dict__[name] = value.decode()
            jobs.append(job)
        return jobs


async def loaded_jobs(t: JobTable, cursor: AsyncCursor[Any]) -> list[Job]:
    """Return the jobs that ``cursor`` found. A job with an unreadable value has the reason (:func:`unreadable`)."""
    made = Undecodable.made
    rows = await fetch_carefully(cursor)
    jobs = t.jobs([column.name for column in cursor.description or ()], rows)
    if Undecodable.made != made:  # otherwise no value was unreadable
        for job in jobs:
            job.__dict__[_UNREADABLE] = first_undecodable((name, job.__dict__.get(name)) for name in t.column)
    return jobs


_UNREADABLE = "_gristmill_unreadable"


def unreadable(job: Job) -> str | None:
    """Return which value of a claimed job cannot be read and why; None if its handler can run."""
    reason: str | None = job.__dict__.get(_UNREADABLE)
    return reason


def mark_unreadable(job: Job, reason: str) -> None:
    """Let :func:`unreadable` return ``reason``, because Postgres could not send the job's row."""
    job.__dict__[_UNREADABLE] = reason


# The FROM item of every statement on a batch of runs. Such a statement also has ``id = ANY (%(ids)s)``, so that the
# planner reads only these keys of the primary key's index, whatever the statistics say. It puts a state inside a
# ``CASE``: this matches no partial index, and the planner never takes it for rare. Without both, and with outdated
# statistics, a claim of 512 of 20,000 rows read all rows and compared each pair (140 ms instead of 12 ms).
TICKETS = "unnest(%(ids)s::uuid[], %(versions)s::int[]) AS u(id, version)"


def tickets(runs: Sequence[tuple[UUID, int]]) -> dict[str, str]:
    """Return the values of :data:`TICKETS` as array literals: arrays of the driver cost three times as much."""
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
