"""Process the sample files: ingest, embed, compare with guidelines, rate, search."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from uuid import UUID

from cli.connection import actor, open_database
from cli.demo.display import step_display
from cli.demo.following import StepProgress, follow_jobs
from workers.analytics import analyses
from workers.analytics.analyses import AnalysisView
from workers.analytics.findings import MeanRating, judging_progress, project_findings
from workers.ingestion.enqueue_file import ingest_file
from workers.ingestion.outcomes import IngestionOutcome, embedding_progress, ingestion_outcomes
from workers.operations.projects import FoundProject, get_or_create, set_guidelines
from workers.runtime.database import Database, Raw
from workers.runtime.handler.ports import LanguageModel
from workers.runtime.refusals import Failed
from workers.vectorization.similar import Match, embed_text, similar

SAMPLES = Path(__file__).parents[2] / "samples"
FILES: tuple[tuple[str, Literal["TASK", "FEEDBACK"]], ...] = (("tasks.csv", "TASK"), ("feedback.csv", "FEEDBACK"))
GUIDELINES = "guidelines.pdf"
QUESTION = "an apology to a customer whose parcel is late"
MAX_MATCHES = 3
# Without creators, the sample records do not count in the bonus windows of this system.
NO_CREATORS = {"creator": "", "creator_id": "", "creator_name": "", "creator_email": ""}
_PIECE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class SampleFiles:
    """The results for the sample files; ``verdicts`` and ``ratings`` by type of record."""

    jobs: Sequence[IngestionOutcome]
    analysis: AnalysisView
    verdicts: Mapping[str, Mapping[str, int]]
    ratings: Mapping[str, MeanRating]
    matches: Sequence[Match]

    @property
    def failed(self) -> bool:
        errors = [*(job.error_message for job in self.jobs), self.analysis.error]
        return any(errors) or self.analysis.failed_count > 0


def samples_exist() -> bool:
    """Return whether this installation has the sample files."""
    return all((SAMPLES / name).is_file() for name, _ in FILES) and (SAMPLES / GUIDELINES).is_file()


async def process_samples(
    database_url: str, llm: LanguageModel, name: str, *, on_created: Callable[[UUID], None], check: Callable[[], None]
) -> SampleFiles:
    """Ingest the samples into a new project and return the results.

    Call ``on_created`` with the id of the project as soon as it exists. ``check`` is called meanwhile and may raise.
    """
    async with open_database(database_url) as database:
        project, ingest_ids = await _enqueue_files(database, name)
        on_created(project.id)
        with step_display("embedding") as show:
            await follow_jobs(
                database_url, ingest_ids, lambda conn: _embedding_progress(conn, ingest_ids), show=show, check=check
            )
        jobs = await _load_outcomes(database, ingest_ids)
        async with database.session() as session:
            analysis = (await analyses.start(session, project.id, actor=actor())).id
        with step_display("comparing with guidelines") as show:
            await follow_jobs(
                database_url, [analysis], lambda conn: _analysis_progress(conn, analysis), show=show, check=check
            )
        question = await embed_text(llm, QUESTION)
        async with database.session() as session:
            matches = await similar(session, to=question, project_id=project.id, limit=MAX_MATCHES)
            found = await project_findings(session, project.id)
            report = await analyses.report(session, analysis)
        return SampleFiles(jobs, report.analysis, found.verdicts, found.ratings, matches)


async def _enqueue_files(database: Database, name: str) -> tuple[FoundProject, list[UUID]]:
    async with database.session() as session:
        project = await get_or_create(session, name, actor=actor())
        pdf = (SAMPLES / GUIDELINES).read_bytes()
        await set_guidelines(session, project, pdf, GUIDELINES, actor=actor())
        jobs = [
            await ingest_file(
                session,
                project_id=project.id,
                type=type_,
                stream=_pieces(SAMPLES / file),
                file_name=file,
                mapping=NO_CREATORS,
                actor=actor(),
            )
            for file, type_ in FILES
        ]
    return project, [job.id for job in jobs]


async def _pieces(file: Path) -> AsyncIterator[bytes]:
    with file.open("rb") as content:
        while piece := content.read(_PIECE_BYTES):
            yield piece


async def _embedding_progress(conn: Raw, job_ids: Sequence[UUID]) -> StepProgress:
    seen = await embedding_progress(conn, job_ids)
    return StepProgress(seen.saved, seen.embedded, done=seen.ended)


async def _analysis_progress(conn: Raw, job_id: UUID) -> StepProgress:
    seen = await judging_progress(conn, job_id)
    return StepProgress(seen.total, seen.judged, seen.failed, done=seen.ended)


async def _load_outcomes(database: Database, job_ids: Sequence[UUID]) -> list[IngestionOutcome]:
    """Return the outcomes of the files; raise Failed if one was not ingested."""
    async with database.session() as session:
        jobs = await ingestion_outcomes(session, job_ids)
    for job in jobs:
        if not job.completed:
            raise Failed(f"the sample files were not ingested: {job.error_message}")
    return jobs
