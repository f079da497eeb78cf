"""Hand a file in and follow its job: a bar on a terminal, lines elsewhere, what was skipped and why at the end."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from uuid import UUID

from psycopg.rows import class_row
from sqlalchemy import ColumnElement, delete, exists, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from cli.following import pauses
from cli.output import console, status_text
from cli.previewing import file_name, local, opened_file
from cli.steady import steady
from models.operations import AnalyticsJob, DataRecord, IngestJob, Project, Upload
from workers.ingestion.enqueue_file import ingest_file, look
from workers.ingestion.kinds import Kind
from workers.ingestion.refusals import Unreadable
from workers.ingestion.telling import problems, skipped_lines, warning_lines
from workers.ingestion.unwrapping import HEAD_BYTES
from workers.operations.projects import get_or_create
from workers.runtime.database import Database, Raw
from workers.runtime.enqueue import Enqueued
from workers.runtime.refusals import Failed, Refusal, printable

_QUIET_SECONDS = 2.0
_PIECE_BYTES = 1024 * 1024
_COMPLETED = "COMPLETED"
_LOADING = {"PENDING", "PROCESSING"}
_LOOK = """
    SELECT status, "totalRecords" AS total, "savedCount" AS saved, "skippedCount" AS skipped,
           "embeddedCount" AS embedded, progress, coalesce("skippedDetails", '{}') AS details,
           coalesce(warnings, '{}') AS warnings, error, completed_at IS NOT NULL AS ended,
           (SELECT wait_reason FROM runtime.jobs WHERE runtime.jobs.id = ingest_jobs.id) AS wait_reason
      FROM operations.ingest_jobs WHERE id = %s"""


@dataclass(frozen=True, slots=True)
class Seen:
    """Where a job of ingestion stands."""

    status: str
    total: int
    saved: int
    skipped: int
    embedded: int
    progress: int
    details: dict[str, Any]
    warnings: dict[str, Any]
    error: str | None
    ended: bool
    wait_reason: str | None

    @property
    def completed(self) -> bool:
        return self.status == _COMPLETED

    @property
    def read_as(self) -> Mapping[str, Any]:
        """How the file was read, where that is not as most files are."""
        found: Mapping[str, Any] = self.warnings.get("read_as") or {}
        return found

    @property
    def loading(self) -> bool:
        return self.status in _LOADING


@dataclass(frozen=True, slots=True)
class HandedIn:
    """A file's job, and the project it is for."""

    job: Enqueued
    project_id: UUID
    project: str


async def hand_in(
    database: Database,
    file: Path,
    *,
    project: str,
    mapping: Mapping[str, str],
    reading: Mapping[str, Any] | None = None,
    idempotency_key: str | None = None,
    **options: Any,
) -> HandedIn:
    """Keep ``file`` and enqueue its ingestion; ``options`` are those of ``ingest_file``. A new project is made.

    ``reading`` says how the file is to be read; ``-`` is standard input. The project is there for others while the file
    is still on its way. It goes again if nothing came of the file.
    """
    name = file_name(file)
    try:
        with opened_file(file) as opened:
            head = await asyncio.to_thread(opened.read, HEAD_BYTES)
            kind = await look(head, mapping, name=name, options=reading or {})
            if kind is Kind.XLSX and len(head) == HEAD_BYTES and opened.seekable():
                await local(opened).look(name=name, mapping=mapping, options=reading or {})
                opened.seek(HEAD_BYTES)
            async with _made(database, project) as found, database.session() as session:
                job = await ingest_file(
                    session,
                    project_id=found.id,
                    stream=_pieces(head, opened),
                    file_name=name,
                    mapping=mapping,
                    options=reading,
                    idempotency_key=idempotency_key,
                    **options,
                )
    except OSError as error:
        raise Refusal(f"file {str(file)!r} cannot be read: {error.strerror}") from None
    except Unreadable as error:
        raise Refusal(f"{name}: {error}") from None
    if not job.created and (first := await _first(database, IngestJob.id == job.id)):
        return first  # of its key
    return HandedIn(job, found.id, found.name)


async def _first(database: Database, which: ColumnElement[bool]) -> HandedIn | None:
    """Return the job that was handed in before."""
    query = (
        select(IngestJob.id, Project.id, Project.name).join(Project, IngestJob.project_id == Project.id).where(which)
    )
    async with database.session() as session:
        found = (await session.execute(query)).first()
    return None if found is None else HandedIn(Enqueued(found[0], created=False), found[1], found[2])


@asynccontextmanager
async def _made(database: Database, name: str) -> AsyncIterator[Project]:
    """Yield the project of that name, committed; a new one that the block leaves unused is deleted afterwards."""
    async with database.session() as session:
        known = await session.scalar(select(Project.id).where(Project.name == name))
        found = await get_or_create(session, name)
    try:
        yield found
    finally:
        if known is None and found.name == name:  # by its id, one that is there is found
            async with database.session() as session:
                await _remove_unused(session, found.id)


async def _remove_unused(session: AsyncSession, project_id: UUID) -> None:
    """Delete the project unless somebody uses it, or is about to: whoever adds to it holds a lock on its row."""
    unused = select(Project.id).where(Project.id == project_id, Project.guidelines.is_(None))
    if await session.scalar(unused.with_for_update(skip_locked=True)) is None:
        return
    # A statement of its own sees what was committed before the lock was ours.
    used = (exists().where(table.project_id == project_id) for table in (Upload, DataRecord, IngestJob, AnalyticsJob))
    await session.execute(delete(Project).where(Project.id == project_id, ~or_(*used)))


async def _pieces(head: bytes, file: IO[bytes]) -> AsyncIterator[bytes]:
    yield head
    while piece := await asyncio.to_thread(file.read, _PIECE_BYTES):
        yield piece


async def follow(database_url: str, job_id: UUID, *, show: Callable[[Seen], None]) -> Seen:
    """Return the job once it has ended; ``show`` is told where it stands. A restart of Postgres is waited for."""
    pause = pauses()

    async def look(conn: Raw) -> Seen | None:
        return await (await conn.cursor(row_factory=class_row(Seen)).execute(_LOOK, [job_id])).fetchone()

    async with steady(database_url) as connection:
        while True:
            seen = await connection.ask(look)
            if seen is None:
                raise Failed(f"job {job_id} does not exist (any more): was its project deleted?")
            show(seen)
            if seen.ended:
                return seen
            await asyncio.sleep(next(pause))


@contextmanager
def progress() -> Iterator[Callable[[Seen], None]]:
    """Yield what shows where a job stands."""
    if not sys.stderr.isatty():
        yield _lines()
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console(stderr=True)) as bar:
        task = bar.add_task("waiting", total=100, note="")
        yield lambda seen: bar.update(task, description=title(seen), completed=percent(seen), note=note(seen))


def _lines() -> Callable[[Seen], None]:
    """Return what prints a line now and then, and at every change of state."""
    told_at, told = 0.0, ""

    def show(seen: Seen) -> None:
        nonlocal told_at, told
        if title(seen) != told or time.monotonic() - told_at > _QUIET_SECONDS:
            told_at, told = time.monotonic(), title(seen)
            print(f"{title(seen)}: {percent(seen)} %, {note(seen)}", file=sys.stderr, flush=True)

    return show


def title(seen: Seen) -> str:
    """Return what is being done."""
    if seen.ended:
        return status_text(seen.status)
    waiting = {"PENDING": "waiting", "QUEUED_FOR_VEC": "waiting to be embedded"}
    doing = waiting.get(seen.status, "ingesting" if seen.loading else "embedding")
    return printable(f"{doing} ({seen.wait_reason})") if seen.wait_reason else doing


def percent(seen: Seen) -> int:
    """Return how much of what is being done is done; the end of a job is all of it."""
    if seen.completed:
        return 100
    if seen.loading or not seen.saved:
        return seen.progress
    return seen.embedded * 100 // seen.saved


def note(seen: Seen) -> str:
    """Return the counts so far."""
    embedded = "" if seen.loading else f", {seen.embedded:,} embedded"
    return f"{seen.total:,} read, {seen.saved:,} saved, {seen.skipped:,} skipped{embedded}"


def worst(seen: Seen) -> list[str]:
    """Return what a person must see first: most rows were skipped, or rows are cut."""
    return problems(
        total=seen.total, skipped=seen.skipped, details=seen.details, warnings=seen.warnings, read_as=seen.read_as
    )


def summary(seen: Seen) -> list[str]:
    """Return what became of the file, line by line: problems first, the counts, each reason with its first lines."""
    return [
        *(f"WARNING: {problem}" for problem in worst(seen)),
        f"{status_text(seen.status)}: {note(seen)}",
        *(f"  {line}" for line in skipped_lines(seen.details, seen.read_as)),
        *(f"  {line}" for line in warning_lines(seen.warnings, seen.read_as)),
        *([f"  {seen.error}"] if seen.error else []),
    ]
