"""Read assessments of the event-based system from a table, a CSV file, or a file of JSON lines."""

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

MAX_CSV_FIELD_CHARACTERS = 4 * 1024 * 1024
_ROWS_PER_FETCH = 1_000


@dataclass(frozen=True, slots=True)
class SourceEntry:
    """One entry of a source: its line or row number from 1, and its fields, or the reason why it has none."""

    position: int
    row: Mapping[str, Any] | None
    unreadable: str | None = None


async def rows_of_table(conn: Raw, table: str) -> AsyncIterator[SourceEntry]:
    """Yield the rows of ``table`` (``name`` or ``schema.name``), a thousand at a time.

    ``conn`` commits each statement. The cursor stays open after its transaction, so a long import holds no snapshot.
    Rows are read as JSON text, one by one, because the driver would fail for a thousand rows if it cannot decode one
    value. Raise UnknownSource if the table does not exist.
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


async def rows_of_file(path: Path) -> AsyncIterator[SourceEntry]:
    """Yield the records of a CSV file with a header if the name ends in .csv, else of a file of JSON lines."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        found = _csv(file) if path.suffix.lower() == ".csv" else _json_lines(file)
        for one in found:
            yield one


def _csv(lines: Iterator[str]) -> Iterator[SourceEntry]:
    csv.field_size_limit(MAX_CSV_FIELD_CHARACTERS)
    reader = csv.DictReader(lines, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield SourceEntry(line, None, f"the line is not CSV: {error}")
            continue
        if None in row:
            yield SourceEntry(reader.line_num, None, f"the line has more fields than the header's {len(row) - 1}")
        else:
            yield SourceEntry(reader.line_num, row)


def _json_lines(lines: Iterator[str]) -> Iterator[SourceEntry]:
    for position, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        yield _object(position, line, "line")


def _object(position: int, text: str, what: str) -> SourceEntry:
    """Return the JSON object in ``text``, or the reason why there is none; ``what`` is "line" or "row"."""
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        return SourceEntry(position, None, f"the {what} is not JSON: {error}")
    except ValueError:
        return SourceEntry(position, None, f"the {what} holds an integer of more digits than can be read (4,300)")
    except RecursionError:
        return SourceEntry(position, None, f"the {what} is nested too deeply to be read")
    if isinstance(row, dict):
        return SourceEntry(position, row)
    return SourceEntry(position, None, f"the {what} must be a JSON object, got {type(row).__name__}")
