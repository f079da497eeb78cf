"""Take the sample files through: ingest, embed, compare with guidelines, rate, search."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

from sqlalchemy import func, select

from cli.connection import opened
from cli.demo.display import progress
from cli.demo.following import Progress, follow
from models.operations import LLM_USER, AnalyticsJob, DataRecord, IngestJob, LikertScore, Project
from workers.ingestion.enqueue_file import ingest_file
from workers.operations.projects import get_or_create, set_guidelines
from workers.runtime.database import Database, Raw
from workers.runtime.enqueue import enqueue
from workers.runtime.refusals import Failed
from workers.vectorization.similar import Match, Vector, similar

if TYPE_CHECKING:
    from workers.runtime.handler.ports import LanguageModel

SAMPLES = Path(__file__).parents[2] / "samples"
FILES: tuple[tuple[str, Literal["TASK", "FEEDBACK"]], ...] = (("tasks.csv", "TASK"), ("feedback.csv", "FEEDBACK"))
GUIDELINES = "guidelines.pdf"
QUESTION = "an apology to a customer whose parcel is late"
FOUND = 3
# People of the samples earn nothing in the bonus windows of whoever watches.
NOBODYS = {"creator": "", "creator_id": "", "creator_name": "", "creator_email": ""}
_PIECE = 64 * 1024


@dataclass(frozen=True, slots=True)
class Records:
    """What became of the sample files; ``verdicts`` and ``ratings`` (realism, quality) by type of record."""

    project: str
    jobs: Sequence[IngestJob]
    analysis: AnalyticsJob
    verdicts: dict[str, dict[str, int]]
    ratings: dict[str, tuple[str, float, float]]
    matches: Sequence[Match]
    summary: Project

    @property
    def failed(self) -> bool:
        return any(job.error_message for job in (*self.jobs, self.analysis)) or self.analysis.failed_count > 0


def available() -> bool:
    """Tell whether the sample files came along with this installation."""
    return all((SAMPLES / name).is_file() for name, _ in FILES) and (SAMPLES / GUIDELINES).is_file()


async def take_through(
    database_url: str, llm: "LanguageModel", name: str, *, made: Callable[[UUID], None], check: Callable[[], None]
) -> Records:
    """Ingest the samples into a new project and return what came of them.

    ``made`` is told the project as soon as it is there; ``check`` may raise meanwhile.
    """

    async def embedded(conn: Raw) -> Progress:
        return await _embedded(conn, ingest_ids)

    async with opened(database_url) as database:
        project_id, ingest_ids = await _enqueue_files(database, name)
        made(project_id)
        with progress("embedding") as show:
            await follow(database_url, IngestJob, ingest_ids, embedded, show=show, check=check)
        await _require_completed(database, ingest_ids)
        async with database.session() as session:
            analysis = (await enqueue(session, "analytics.align", {"project_id": str(project_id)})).id
        with progress("comparing with guidelines") as show:
            await follow(
                database_url, AnalyticsJob, [analysis], lambda conn: _judged(conn, analysis), show=show, check=check
            )
        matches = await _search(database, llm, project_id)
        return await _outcome(database, name, ingest_ids, analysis, matches)


async def _enqueue_files(database: Database, name: str) -> tuple[UUID, list[UUID]]:
    async with database.session() as session:
        project = await get_or_create(session, name)
        await set_guidelines(session, project, (SAMPLES / GUIDELINES).read_bytes(), GUIDELINES)
        jobs = [
            await ingest_file(
                session,
                project_id=project.id,
                type=type_,
                stream=_pieces(SAMPLES / file),
                file_name=file,
                mapping=NOBODYS,
            )
            for file, type_ in FILES
        ]
    return project.id, [job.id for job in jobs]


async def _pieces(file: Path) -> AsyncIterator[bytes]:
    with file.open("rb") as content:
        while piece := content.read(_PIECE):
            yield piece


async def _embedded(conn: Raw, job_ids: Sequence[UUID]) -> Progress:
    cursor = await conn.execute(
        """SELECT coalesce(sum("savedCount"), 0)::int, coalesce(sum("embeddedCount"), 0)::int,
                  bool_and(completed_at IS NOT NULL) FROM operations.ingest_jobs WHERE id = ANY (%s)""",
        [list(job_ids)],
    )
    saved, embedded, done = await cursor.fetchone() or (0, 0, True)
    return Progress(saved, embedded, done=done)


async def _require_completed(database: Database, job_ids: Sequence[UUID]) -> None:
    async with database.session() as session:
        query = select(IngestJob.error_message).where(IngestJob.id.in_(job_ids), IngestJob.status != "COMPLETED")
        failed = (await session.scalars(query)).first()
    if failed is not None:
        raise Failed(f"the sample files were not ingested: {failed}")


async def _judged(conn: Raw, job_id: UUID) -> Progress:
    cursor = await conn.execute(
        """SELECT "totalRecords", "processedCount" - "failedCount", "failedCount", completed_at IS NOT NULL
             FROM operations.analytics_jobs WHERE id = %s""",
        [job_id],
    )
    total, completed, failed, done = await cursor.fetchone() or (0, 0, 0, True)
    return Progress(total, completed, failed, done=done)


async def _search(database: Database, llm: "LanguageModel", project_id: UUID) -> list[Match]:
    model = await llm.embedding_model()
    [numbers] = (await llm.embed([QUESTION], model=model)).vectors
    async with database.session() as session:
        return await similar(session, to=Vector(numbers, model), project_id=project_id, limit=FOUND)


async def _outcome(
    database: Database, name: str, ingest_ids: Sequence[UUID], analysis_id: UUID, matches: Sequence[Match]
) -> Records:
    async with database.session() as session:
        jobs = (
            await session.scalars(select(IngestJob).where(IngestJob.id.in_(ingest_ids)).order_by(IngestJob.id))
        ).all()
        analysis = await session.get(AnalyticsJob, analysis_id)
        project = (await session.scalars(select(Project).where(Project.name == name))).one()
        if analysis is None:
            raise Failed(f"the analysis of {name!r} was deleted meanwhile")
        verdict = DataRecord.alignment["verdict"].astext
        counted = select(DataRecord.type, verdict, func.count()).where(DataRecord.project_id == project.id)
        verdicts: dict[str, dict[str, int]] = {}
        for type_, said, count in await session.execute(counted.group_by(DataRecord.type, verdict)):
            verdicts.setdefault(type_, {})[said or "not judged"] = count
        rated: Any = await session.execute(
            select(
                DataRecord.type,
                LikertScore.llm_model,
                func.avg(LikertScore.realism_score),
                func.avg(LikertScore.quality_score),
            )
            .join(DataRecord, DataRecord.id == LikertScore.record_id)
            .where(DataRecord.project_id == project.id, LikertScore.user_id == LLM_USER)
            .group_by(DataRecord.type, LikertScore.llm_model)
        )
        ratings = {type_: (model, float(realism), float(quality)) for type_, model, realism, quality in rated}
    return Records(name, jobs, analysis, verdicts, ratings, matches, project)
