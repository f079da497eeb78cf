"""Files of every kind that can be ingested, like those of other programs, and their previews."""

import asyncio
import gzip
import io
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

from openpyxl import Workbook

from workers.ingestion.preview import Preview, preview

Cell = str | int | float | bool | datetime | None


def workbook(rows: Sequence[Sequence[Cell]], *, hidden: bool = False) -> bytes:
    """Return a workbook with these rows on its first visible sheet."""
    book = Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.title = "Data"
    if hidden:
        other = book.create_sheet("Lookup", 0)
        other.append(["not", "this"])
        other.sheet_state = "hidden"
    for row in rows:
        sheet.append(row)
    made = io.BytesIO()
    book.save(made)
    return made.getvalue()


def json_lines(records: Sequence[object]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def gzipped(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def seen(
    content: bytes,
    *,
    name: str = "f.csv",
    type_: str = "TASK",
    mapping: dict[str, str] | None = None,
    piece: int = 1_000,
    **options: Any,
) -> Preview:
    """Return the preview of a file."""

    @asynccontextmanager
    async def open_pieces() -> AsyncIterator[AsyncIterator[bytes]]:
        async def pieces() -> AsyncIterator[bytes]:
            for at in range(0, len(content), piece):
                yield content[at : at + piece]

        yield pieces()

    return asyncio.run(preview(open_pieces, name=name, type_=type_, mapping=mapping or {}, options=options))
