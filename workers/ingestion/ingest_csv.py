"""The handler of ``ingestion.ingest``: save a file's records in chunks. Each chunk is committed with its counts."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from datetime import timedelta
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints, model_validator
from sqlalchemy import select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from models.operations import IngestJob, Upload
from workers.ingestion.chunks import Chunk, RecordIds
from workers.ingestion.data_file import DataFile
from workers.ingestion.encodings import UTF8, Detector
from workers.ingestion.ingest_state import IngestState
from workers.ingestion.kinds import FileKind
from workers.ingestion.mapping import check_mapping
from workers.ingestion.options import ReadOptions, clean_options
from workers.ingestion.refusals import Unreadable
from workers.ingestion.saving import ProjectBusy, hold_project, save_chunk
from workers.ingestion.unwrapping import unwrap
from workers.ingestion.uploads import PostgresUploads, Uploads
from workers.longrun.long_run import last_start
from workers.runtime.handler.context import Context
from workers.runtime.handler.naming import LongName
from workers.runtime.handler.outcomes import Complete, Fail, Outcome, Snooze
from workers.runtime.handler.registry import stage

# The beginning of the source of a job with a file.
FILE_PREFIXES = tuple(f"{kind}:" for kind in FileKind)
MAX_SOURCE_CHARS = 512
BUSY_RETRY_DELAY = timedelta(seconds=1)
FILE_IS_GONE = "the uploaded file no longer exists: hand it in again"


def _checked_mapping(mapping: dict[str, str]) -> dict[str, str]:
    check_mapping(mapping)
    return mapping


class IngestRequest(BaseModel):
    """What the doors accept for ``ingestion.ingest``; the fields are columns of ``ingest_jobs``.

    ``mapping`` names the file's column for a field; the empty name means that there is none. Other fields are found by
    their names. ``options`` say how the file is read. Without an upload nothing is loaded, and the project's records
    are embedded next. ``content_hash`` is the file's SHA-256 as Postgres writes bytes: with it, a repeat with another
    file is refused. The source of a job with an upload begins with its kind (``csv:``), so a job that lost its file
    fails.
    """

    model_config = ConfigDict(extra="forbid")

    project_id: UUID
    type: Literal["TASK", "FEEDBACK"]
    upload_id: UUID | None = None
    content_hash: Annotated[str, StringConstraints(pattern=r"^\\x[0-9a-f]{64}$")] | None = None
    mapping: Annotated[dict[str, str], AfterValidator(_checked_mapping)] = {}
    options: Annotated[dict[str, Any], AfterValidator(clean_options)] = {}
    source: LongName | None = None

    @model_validator(mode="after")
    def _require_file_source(self) -> Self:
        if self.upload_id is None and (self.source or "").startswith(FILE_PREFIXES):
            raise ValueError(FILE_IS_GONE)
        if self.upload_id is not None and not (self.source or "").startswith(FILE_PREFIXES):
            self.source = f"{FileKind.CSV}:{self.source or self.upload_id}"[:MAX_SOURCE_CHARS].rstrip()
        return self


@stage("ingestion.ingest", of=IngestJob, payload=IngestRequest, timeout=timedelta(hours=6))
async def ingest_csv(job: IngestJob, ctx: Context) -> Outcome:
    """Save each record of the job's file, or count why it is skipped. A run continues after the last committed chunk.

    If a run's time is nearly up, it leaves the rest to the next run. No attempt is spent.
    """
    if (job.resume_at or {}).get("done"):
        return Complete()
    if job.upload_id is None:
        lost = (job.source or "").startswith(FILE_PREFIXES)
        return Fail(FILE_IS_GONE) if lost else Complete()
    try:
        if not await _load(job, job.upload_id, ctx, PostgresUploads(ctx.session)):
            return Snooze(timedelta(), "its time is nearly up: another run continues")
    except Unreadable as error:
        return Fail(str(error))
    except ProjectBusy:
        return Snooze(BUSY_RETRY_DELAY, "its project is being deleted or changed")
    return Complete()


async def _load(job: IngestJob, upload_id: UUID, ctx: Context, uploads: Uploads) -> bool:
    """Save the file chunk by chunk; return whether its end was reached."""
    last = last_start(job.deadline_at, ctx.clock())
    upload, ids = await _load_upload(job, upload_id, ctx)
    options = ReadOptions.of(job.options)
    encoding = options.encoding or upload.encoding or await _detect_encoding(upload_id, ctx, uploads)
    async with (
        aclosing(uploads.read(upload_id)) as pieces,
        DataFile(pieces, name=upload.file_name, encoding=encoding, options=job.options) as file,
    ):
        reached: Mapping[str, Any] = job.resume_at or {}
        await file.open(
            job.mapping, type_=job.type, ids=ids, skip=reached.get("line", 0), runaways=reached.get("runaways", 0)
        )
        state = IngestState(job, file)
        # The records get this source. The door may not have detected the kind.
        job.source = source_of_kind(job.source, file.table.kind)
        upcoming = asyncio.create_task(file.next_chunk())
        try:
            while (chunk := await upcoming) is not None:
                # A thread prepares it while Postgres saves this one.
                upcoming = asyncio.create_task(file.next_chunk())
                share = min(file.bytes_read * 98 // upload.size_bytes, 98)
                await _keep(job, chunk, ctx, state=state, ids=ids, progress=share)
                if last and ctx.clock() >= last:
                    return False
        finally:
            upcoming.cancel()
            await asyncio.gather(upcoming, return_exceptions=True)

    await _discard(job, upload_id, ctx, uploads, reached=state.resume_at)
    return True


def source_of_kind(source: str | None, kind: FileKind) -> str:
    """Return a job's source with the detected kind of its file."""
    name = source or ""
    prefix = next((prefix for prefix in FILE_PREFIXES if name.startswith(prefix)), "")
    return f"{kind}:{name.removeprefix(prefix)}"[:MAX_SOURCE_CHARS]


async def encoding_of(pieces: AsyncIterator[bytes]) -> str:
    """Return the encoding detected from the whole file, unpacked if it is gzip; raise Unreadable if it has no rows."""
    unwrapped = await unwrap(pieces)
    if unwrapped.kind == "zip":
        return UTF8
    detector = Detector()
    async for piece in unwrapped.pieces:
        await asyncio.to_thread(detector.feed, piece)
    return detector.finish()


async def _discard(
    job: IngestJob, upload_id: UUID, ctx: Context, uploads: Uploads, *, reached: Mapping[str, Any]
) -> None:
    """Delete the content of a file that was read, and record this in the job's row."""

    async def discard(session: AsyncSession) -> None:
        await hold_project(session, job.project_id)
        await uploads.discard(session, upload_id)

    # Not in the transaction that settles, because other jobs share it: deleting a large file takes seconds.
    await ctx.checkpoint({"resume_at": {**reached, "done": True}, "progress": 99}, discard)


async def _keep(
    job: IngestJob, chunk: Chunk, ctx: Context, *, state: IngestState, ids: RecordIds, progress: int
) -> None:
    """Commit one chunk together with its counts."""
    values: dict[str, Any] = {}

    async def write(session: AsyncSession) -> dict[str, Any]:
        values.update(state.with_chunk(chunk, await save_chunk(session, job, chunk, ids)))
        return {**values, "progress": max(1, progress)}

    await ctx.checkpoint({}, write)
    state.record_commit(values, chunk)


async def _load_upload(job: IngestJob, upload_id: UUID, ctx: Context) -> tuple[Upload, RecordIds]:
    """Return the job's file, and ids for its records. A row may be written in SQL: check its mapping and options."""
    async with ctx.session() as session:
        upload = await session.scalar(select(Upload).where(Upload.id == upload_id, Upload.project_id == job.project_id))
        first: UUID = (await session.execute(text("SELECT uuidv7()"))).scalar_one()
    if upload is None:
        raise Unreadable(FILE_IS_GONE)
    if not upload.size_bytes:
        raise Unreadable("the file is empty: it has no header")
    try:
        check_mapping(job.mapping)
        clean_options(job.options)
    except ValueError as error:
        raise Unreadable(str(error)) from None
    return upload, RecordIds(first)


async def _detect_encoding(upload_id: UUID, ctx: Context, uploads: Uploads) -> str:
    """Return the encoding of a file if its door did not detect it, and store it for the next run."""
    async with aclosing(uploads.read(upload_id)) as pieces:
        encoding = await encoding_of(pieces)

    async def write(session: AsyncSession) -> None:
        await session.execute(update(Upload).where(Upload.id == upload_id).values(encoding=encoding))

    await ctx.checkpoint({}, write)
    return encoding
