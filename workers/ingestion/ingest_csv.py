"""The handler of ``ingestion.ingest``: a file becomes records, chunk by chunk, each committed with what it counts."""

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
from workers.ingestion.account import Account
from workers.ingestion.chunks import Chunk, Ids
from workers.ingestion.data_file import DataFile
from workers.ingestion.encodings import UTF8, Detector
from workers.ingestion.kinds import Kind
from workers.ingestion.mapping import check
from workers.ingestion.options import Options, checked
from workers.ingestion.refusals import Unreadable
from workers.ingestion.saving import Busy, hold_project, save
from workers.ingestion.unwrapping import unwrap
from workers.ingestion.uploads import PostgresUploads, Uploads
from workers.longrun.long_run import last_start
from workers.runtime.handler.context import Context
from workers.runtime.handler.naming import LongName
from workers.runtime.handler.outcomes import Complete, Fail, Outcome, Snooze
from workers.runtime.handler.registry import stage

# What a job's source begins with when its records come out of a file.
FILES = tuple(f"{kind}:" for kind in Kind)
SOURCE_LENGTH = 512
BUSY_DELAY = timedelta(seconds=1)
GONE = "the uploaded file is gone: hand it in again"


def _possible(mapping: dict[str, str]) -> dict[str, str]:
    check(mapping)
    return mapping


class IngestRequest(BaseModel):
    """What the doors accept for ``ingestion.ingest``; the fields are columns of ``ingest_jobs``.

    ``mapping`` names the file's column of each field that is not to be guessed; an empty name: none. ``options`` say
    how the file is to be read. Without an upload there is nothing to load, and the project's records go on to be
    embedded. ``content_hash`` is the file's SHA-256, as Postgres writes bytes: it tells a repeat of the same file from
    another. The source of a job with one begins with its kind, such as ``csv:``, so that its file is missed once it is
    gone.
    """

    model_config = ConfigDict(extra="forbid")

    project_id: UUID
    type: Literal["TASK", "FEEDBACK"]
    upload_id: UUID | None = None
    content_hash: Annotated[str, StringConstraints(pattern=r"^\\x[0-9a-f]{64}$")] | None = None
    mapping: Annotated[dict[str, str], AfterValidator(_possible)] = {}
    options: Annotated[dict[str, Any], AfterValidator(checked)] = {}
    source: LongName | None = None

    @model_validator(mode="after")
    def _tell_of_the_file(self) -> Self:
        if self.upload_id is None and (self.source or "").startswith(FILES):
            raise ValueError(GONE)
        if self.upload_id is not None and not (self.source or "").startswith(FILES):
            self.source = f"{Kind.CSV}:{self.source or self.upload_id}"[:SOURCE_LENGTH].rstrip()
        return self


@stage("ingestion.ingest", of=IngestJob, payload=IngestRequest, timeout=timedelta(hours=6))
async def ingest_csv(job: IngestJob, ctx: Context) -> Outcome:
    """Save each record of the job's file, or count why not; a run goes on where the last one's commit left off.

    One whose time is nearly up leaves the rest to the next, without an attempt spent.
    """
    if (job.resume_at or {}).get("done"):
        return Complete()
    if job.upload_id is None:
        lost = (job.source or "").startswith(FILES)
        return Fail(GONE) if lost else Complete()
    try:
        if not await _load(job, job.upload_id, ctx, PostgresUploads(ctx.session)):
            return Snooze(timedelta(), "its time is nearly up: another run goes on")
    except Unreadable as error:
        return Fail(str(error))
    except Busy:
        return Snooze(BUSY_DELAY, "its project is being deleted or changed")
    return Complete()


async def _load(job: IngestJob, upload_id: UUID, ctx: Context, uploads: Uploads) -> bool:
    """Save the file chunk by chunk; return whether that came to its end."""
    last = last_start(job.deadline_at, ctx.clock())
    upload, ids = await _found(job, upload_id, ctx)
    options = Options.of(job.options)
    encoding = options.encoding or upload.encoding or await _detected(upload_id, ctx, uploads)
    async with (
        aclosing(uploads.read(upload_id)) as pieces,
        DataFile(pieces, name=upload.file_name, encoding=encoding, said=job.options) as file,
    ):
        reached: Mapping[str, Any] = job.resume_at or {}
        await file.open(
            job.mapping, type_=job.type, ids=ids, skip=reached.get("line", 0), runaways=reached.get("runaways", 0)
        )
        account = Account(job, file)
        # For its records; the door that took the file may not have looked what it is.
        job.source = of_kind(job.source, file.table.kind)
        upcoming = asyncio.create_task(file.next_chunk())
        try:
            while (chunk := await upcoming) is not None:
                # Made while Postgres works on this one.
                upcoming = asyncio.create_task(file.next_chunk())
                share = min(file.bytes_read * 98 // upload.size_bytes, 98)
                await _keep(job, chunk, ctx, account=account, ids=ids, progress=share)
                if last and ctx.clock() >= last:
                    return False
        finally:
            upcoming.cancel()
            await asyncio.gather(upcoming, return_exceptions=True)

    await _discard(job, upload_id, ctx, uploads, reached=account.resume_at)
    return True


def of_kind(source: str | None, kind: Kind) -> str:
    """Return a job's source with the kind of file that it turned out to be."""
    name = source or ""
    prefix = next((prefix for prefix in FILES if name.startswith(prefix)), "")
    return f"{kind}:{name.removeprefix(prefix)}"[:SOURCE_LENGTH]


async def encoding_of(pieces: AsyncIterator[bytes]) -> str:
    """Return the encoding that all of a file tells, out of its gzip; raise Unreadable for what holds no rows."""
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
    """Give up the content of a file that is read, and say so."""

    async def discard(session: AsyncSession) -> None:
        await hold_project(session, job.project_id)
        await uploads.discard(session, upload_id)

    # Not in the settling transaction, which other jobs share: a large file takes seconds to delete.
    await ctx.checkpoint({"resume_at": {**reached, "done": True}, "progress": 99}, discard)


async def _keep(job: IngestJob, chunk: Chunk, ctx: Context, *, account: Account, ids: Ids, progress: int) -> None:
    """Commit one chunk together with what it counts."""
    values: dict[str, Any] = {}

    async def write(session: AsyncSession) -> dict[str, Any]:
        values.update(account.with_chunk(chunk, await save(session, job, chunk, ids)))
        return {**values, "progress": max(1, progress)}

    await ctx.checkpoint({}, write)
    account.committed(values, chunk)


async def _found(job: IngestJob, upload_id: UUID, ctx: Context) -> tuple[Upload, Ids]:
    """Return the job's file and ids for its records; a row written in SQL is held to the rules of every other door."""
    async with ctx.session() as session:
        upload = await session.scalar(select(Upload).where(Upload.id == upload_id, Upload.project_id == job.project_id))
        first: UUID = (await session.execute(text("SELECT uuidv7()"))).scalar_one()
    if upload is None:
        raise Unreadable(GONE)
    if not upload.size_bytes:
        raise Unreadable("the file is empty: it has no header")
    try:
        check(job.mapping)
        checked(job.options)
    except ValueError as error:
        raise Unreadable(str(error)) from None
    return upload, Ids(first)


async def _detected(upload_id: UUID, ctx: Context, uploads: Uploads) -> str:
    """Return the encoding of a file that came by a door which cannot tell, and keep it for the next run."""
    async with aclosing(uploads.read(upload_id)) as pieces:
        encoding = await encoding_of(pieces)

    async def write(session: AsyncSession) -> None:
        await session.execute(update(Upload).where(Upload.id == upload_id).values(encoding=encoding))

    await ctx.checkpoint({}, write)
    return encoding
