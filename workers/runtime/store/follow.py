"""What followers of jobs read: one statement for all jobs that may have moved, one for all wanted histories."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import fields
from typing import NamedTuple
from uuid import UUID

from psycopg.rows import class_row, tuple_row

from workers.runtime.database import Raw
from workers.runtime.store.read import JobView, TransitionView

_JOBS = (
    f"SELECT {', '.join(field.name for field in fields(JobView))} FROM runtime.jobs WHERE id = ANY (%(ids)s::uuid[])"
)
_TRANSITION = ", ".join(f"t.{field.name}" for field in fields(TransitionView))
_HISTORIES = f"""
    SELECT u.place, {_TRANSITION}
      FROM unnest(%(ids)s::uuid[], %(tables)s::text[], %(after)s::int[])
           WITH ORDINALITY AS u (id, table_name, after, place)
     CROSS JOIN LATERAL (
           SELECT * FROM runtime.transitions AS t
            WHERE t.job_id = u.id AND t.version_to > u.after AND (u.table_name IS NULL OR t.stage IN (
                  SELECT s.name FROM runtime.stages AS s WHERE s.table_name = u.table_name))
            ORDER BY t.version_to LIMIT %(page)s) AS t
     ORDER BY u.place, t.version_to"""


class Position(NamedTuple):
    """A place in the history of a job: after version ``after``. If ``table`` is None, any table with that id counts."""

    job_id: UUID
    table: str | None
    after: int


async def jobs_of(conn: Raw, ids: Sequence[UUID]) -> list[JobView]:
    """Return the jobs with these ids that exist and that this login may see. Two tables may have the same id."""
    cursor = conn.cursor(row_factory=class_row(JobView))
    await cursor.execute(_JOBS, {"ids": list(ids)})
    return await cursor.fetchall()


async def read_histories(conn: Raw, positions: Sequence[Position], *, page: int) -> list[list[TransitionView]]:
    """Return for each position the transitions after it, by version, at most ``page`` of them."""
    found: dict[int, list[TransitionView]] = defaultdict(list)
    names = [field.name for field in fields(TransitionView)]
    cursor = conn.cursor(row_factory=tuple_row)
    await cursor.execute(
        _HISTORIES,
        {
            "ids": [one.job_id for one in positions],
            "tables": [one.table for one in positions],
            "after": [one.after for one in positions],
            "page": page,
        },
    )
    for place, *values in await cursor.fetchall():
        found[place].append(TransitionView(**dict(zip(names, values, strict=True))))
    return [found[place] for place in range(1, len(positions) + 1)]
