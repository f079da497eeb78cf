"""Read a file, or standard input, before it is uploaded."""

import asyncio
import shutil
import sys
import tempfile
import textwrap
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from uuid import UUID

from workers.ingestion.chunks import RecordIds
from workers.ingestion.data_file import DataFile
from workers.ingestion.outcome_lines import file_problems, read_as_line, skipped_lines, warning_lines
from workers.ingestion.preview import Preview, preview
from workers.ingestion.refusals import naming_file, quote_names
from workers.runtime.refusals import Refusal

PIECE_BYTES = 1024 * 1024
_MAX_CONTENT_CHARACTERS = 80
STANDARD_INPUT = "-"


def file_name(file: Path) -> str:
    """Return the name of a file in messages."""
    return "stdin" if str(file) == STANDARD_INPUT else file.name


@contextmanager
def open_file(file: Path) -> Iterator[IO[bytes]]:
    """Open a file; ``-`` is standard input, which stays open. Raise Refusal if it cannot be read."""
    try:
        if str(file) == STANDARD_INPUT:
            yield sys.stdin.buffer
            return
        with file.open("rb") as opened:
            yield opened
    except OSError as error:
        raise Refusal(f"file {str(file)!r} cannot be read: {error.strerror}") from None


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file that can be read again from its beginning."""

    file: IO[bytes]

    @asynccontextmanager
    async def pieces(self) -> AsyncIterator[AsyncIterator[bytes]]:
        """Yield the bytes of the file from the beginning."""

        async def read() -> AsyncIterator[bytes]:
            while piece := await asyncio.to_thread(self.file.read, PIECE_BYTES):
                yield piece

        self.file.seek(0)
        yield read()

    async def check(self, *, name: str, mapping: Mapping[str, str], options: Mapping[str, Any]) -> None:
        """Raise Unreadable if the file cannot be read. A workbook needs this check: its index is at its end."""
        async with self.pieces() as pieces, DataFile(pieces, name=name, options=options) as file:
            await file.open(mapping, type_="TASK", ids=RecordIds(UUID(int=0)))


def preview_file(file: Path, *, type_: str, mapping: Mapping[str, str], reading: Mapping[str, Any]) -> Preview:
    """Return how a file would be read and what would be saved; raise Refusal if it cannot be read."""
    name = file_name(file)
    with naming_file(name), open_file(file) as opened, tempfile.TemporaryFile() as copy:
        if not opened.seekable():
            shutil.copyfileobj(opened, copy)
        readable = LocalFile(opened if opened.seekable() else copy)
        return asyncio.run(preview(readable.pieces, name=name, type_=type_, mapping=mapping, options=reading))


def preview_problems(seen: Preview) -> list[str]:
    """Return what a person must see first."""
    return file_problems(
        total=seen.total, skipped=seen.skipped, details=seen.details, warnings=seen.warnings, read_as=seen.read_as
    )


def preview_lines(name: str, seen: Preview) -> list[str]:
    """Return the preview as lines: how the file would be read and what would be saved."""
    mapped = {**{field: f"{column!r}" for field, column in seen.mapping.items()},
              **{field: f"{column!r} (found by its name)" for field, column in seen.guessed.items()}}  # fmt: skip
    warnings = {what: value for what, value in seen.warnings.items() if what not in {"columns_found", "read_as"}}
    return [
        *(f"WARNING: {problem}" for problem in preview_problems(seen)),
        f"{name}: {read_as_line(seen.read_as)}",
        f"columns: {quote_names(list(seen.columns))}",
        "mapping: " + ", ".join(f"{field} = {column}" for field, column in mapped.items()),
        "first rows:",
        *(f"  {row.line}: {_short(row.content)}" + (f" [{row.category}]" if row.category else "")
          for row in seen.first_rows),
        (f"would be saved: {seen.would_save:,} of {seen.total:,} rows, {seen.skipped:,} skipped"
        " (without a check for records that the project already has)"),
        *(f"  {line}" for line in skipped_lines(seen.details, seen.read_as)),
        *(f"  {line}" for line in warning_lines(warnings, seen.read_as)),
        "nothing was saved: this was a dry run",
    ]  # fmt: skip


def _short(text: str) -> str:
    return textwrap.shorten(text, _MAX_CONTENT_CHARACTERS, placeholder="…")
