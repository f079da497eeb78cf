"""The names a kernel statement needs of one job table, read from its model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

from sqlalchemy import Table, inspect

from models.lifecycle import Job, Lifecycle


@dataclass(frozen=True, slots=True, eq=False)  # one per model: identity is equality, and the key of cached SQL
class JobTable:
    """One job table: its quoted name, its lifecycle, and ``column[attribute]`` as quoted identifiers."""

    model: type[Job]
    name: str
    label: str
    lifecycle: Lifecycle
    column: Mapping[str, str]
    attribute: Mapping[str, str]

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
            jobs.append(job)
        return jobs


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
        column={key: f'"{name}"' for key, name in columns.items()},
        attribute={name: key for key, name in columns.items()},
    )
