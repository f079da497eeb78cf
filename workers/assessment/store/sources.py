"""Where assessments of the event-based system are read from: a table, a CSV file, a file of JSON lines."""

import csv
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psycopg import AsyncServerCursor, sql
from psycopg.errors import UndefinedTable
from psycopg.rows import scalar_row

from workers.assessment.store.refusals import UnknownSource
from workers.runtime.database import Raw

FIELD_LIMIT = 4 * 1024 * 1024
_ROWS_PER_FETCH = 1_000


@dataclass(frozen=True, slots=True)
class Found:
    """One entry of a source: its line or row number from 1, and its fields or why it has none."""

    position: int
    row: Mapping[str, Any] | None
    unreadable: str | None = None


async def rows_of_table(conn: Raw, table: str) -> AsyncIterator[Found]:
    """Yield the rows of ``table`` (``name`` or ``schema.name``), a thousand at a time.

    ``conn`` commits by itself; the cursor outlives its transaction, so that a long import holds no snapshot. Rows come
    as JSON texts and are read one by one: the driver would give up a thousand for one time or number it cannot hold.
    Raises UnknownSource where there is no such table.
    """
    name = sql.Identifier(*table.split("."))
    async with AsyncServerCursor(conn, "existing", row_factory=scalar_row, withhold=True) as cursor:
        cursor.itersize = _ROWS_PER_FETCH
        try:
            await cursor.execute(sql.SQL("SELECT row_to_json(e)::text FROM {} AS e").format(name))
        except UndefinedTable:
            raise UnknownSource(f"table {table!r} is not in this database") from None
        position = 0
        async for row in cursor:
            position += 1
            yield _object(position, row, "row")


async def rows_of_file(path: Path) -> AsyncIterator[Found]:
    """Yield the records of a CSV file with a header, or of a file of JSON lines, told apart by the name's ending."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        found = _csv(file) if path.suffix.lower() == ".csv" else _json_lines(file)
        for one in found:
            yield one


def _csv(lines: Iterator[str]) -> Iterator[Found]:
    csv.field_size_limit(FIELD_LIMIT)
    reader = csv.DictReader(lines, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Found(line, None, f"the line is not CSV: {error}")
            continue
        if None in row:
            yield Found(reader.line_num, None, f"the line has more fields than the header's {len(row) - 1}")
        else:
            yield Found(reader.line_num, row)


def _json_lines(lines: Iterator[str]) -> Iterator[Found]:
    for position, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        yield _object(position, line, "line")


def _object(position: int, text: str, what: str) -> Found:
    """Return the JSON object in ``text``, or why it is none; ``what`` it was: a line or a row."""
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        return Found(position, None, f"the {what} is not JSON: {error}")
    except ValueError:
        return Found(position, None, f"the {what} holds an integer of more digits than can be read (4,300)")
    except RecursionError:
        return Found(position, None, f"the {what} is nested too deeply to be read")
    if isinstance(row, dict):
        return Found(position, row)
    return Found(position, None, f"the {what} must be a JSON object, got {type(row).__name__}")
