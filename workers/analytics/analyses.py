"""The use-cases of analyses: start one, list them, show one with its verdicts and failures."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from models.operations import AnalyticsFailure, AnalyticsJob, DataRecord, Project
from workers.analytics.alignment import VERDICTS
from workers.analytics.guidelines import are_set
from workers.runtime.actor import NOBODY, Actor, acting
from workers.runtime.enqueue import Enqueued, enqueue
from workers.runtime.refusals import Conflict, NotFound

EXCERPT_CHARS = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisView:
    """One analysis. ``model_name`` is the requested model, None for the configured default."""

    id: UUID
    project: str
    type: str | None
    model_name: str | None
    status: str
    progress: int
    total_records: int
    processed_count: int
    failed_count: int
    error: str | None
    warnings: Mapping[str, str] | None
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None


@dataclass(frozen=True, slots=True)
class FailedRecord:
    """A record that could not be judged, and why."""

    record_id: UUID
    type: str
    excerpt: str
    error: str


@dataclass(frozen=True, slots=True)
class AnalysisReport:
    """One analysis with its results. Records that a later analysis judges again count there, not here.

    ``judges`` are the models that answered, by the name in their answers, with the number of records that each judged.
    """

    analysis: AnalysisView
    verdicts: Mapping[str, int]
    judges: Mapping[str, int]
    failures: Sequence[FailedRecord]


class UnknownAnalysis(NotFound):
    """There is no analysis with that id (any more). The message is one line."""


class NoGuidelines(Conflict):
    """The project has no guidelines, so its records cannot be judged."""


async def start(
    session: AsyncSession,
    project_id: UUID,
    *,
    type_: str | None = None,
    model: str | None = None,
    actor: Actor = NOBODY,
    **options: Any,
) -> Enqueued:
    """Enqueue an analysis of all records of a project, or of one type. Nothing happens before the caller commits.

    ``options`` are those of :func:`workers.runtime.enqueue.enqueue`. Raises NoGuidelines and EnqueueError.
    """
    name = await session.scalar(select(Project.name).where(Project.id == project_id))
    if not await are_set(session, project_id):
        raise NoGuidelines(
            f"project {name!r} has no guidelines; set them with `gristmill projects guidelines {name!r} FILE.pdf`"
        )
    payload = {"project_id": str(project_id), "type": type_, "model_name": model}
    async with acting(session, actor):
        return await enqueue(session, "analytics.align", payload, **options)


async def list_analyses(
    session: AsyncSession, *, project_id: UUID | None = None, limit: int = 50, after: UUID | None = None
) -> list[AnalysisView]:
    """Return the newest analyses, of one project or of all; ``after`` is the last id of the page before."""
    newest = _views().order_by(AnalyticsJob.id.desc()).limit(limit)
    if project_id is not None:
        newest = newest.where(AnalyticsJob.project_id == project_id)
    if after is not None:
        newest = newest.where(AnalyticsJob.id < after)
    return [AnalysisView(**row) for row in (await session.execute(newest)).mappings()]


async def report(
    session: AsyncSession, job_id: UUID, *, failures: int = 100, project_id: UUID | None = None
) -> AnalysisReport:
    """Return one analysis (of that project, if given) with its verdicts and its first failed records.

    Raise UnknownAnalysis.
    """
    wanted = _views().where(AnalyticsJob.id == job_id)
    if project_id is not None:
        wanted = wanted.where(AnalyticsJob.project_id == project_id)
    found = (await session.execute(wanted)).mappings().one_or_none()
    if found is None:
        raise UnknownAnalysis(f"analysis {job_id} does not exist (any more)")
    verdict, judge = DataRecord.alignment["verdict"].astext, DataRecord.alignment["model"].astext
    project = select(AnalyticsJob.project_id).where(AnalyticsJob.id == job_id).scalar_subquery()
    counted = (
        select(verdict, judge, func.count())
        .where(DataRecord.project_id == project, DataRecord.alignment_job_id == job_id)
        .group_by(verdict, judge)
    )
    verdicts, judges = Counter[str](), Counter[str]()
    for found_verdict, model, count in await session.execute(counted):
        verdicts[found_verdict] += count
        judges[model] += count
    failed = (
        select(
            AnalyticsFailure.record_id,
            DataRecord.type,
            func.left(DataRecord.content, EXCERPT_CHARS).label("excerpt"),
            AnalyticsFailure.error,
        )
        .join(DataRecord, DataRecord.id == AnalyticsFailure.record_id)
        .where(AnalyticsFailure.job_id == job_id)
        .order_by(AnalyticsFailure.record_id)
        .limit(failures)
    )
    return AnalysisReport(
        AnalysisView(**found),
        {name: verdicts[name] for name in VERDICTS},
        dict(sorted(judges.items())),
        [
            FailedRecord(row.record_id, row.type, " ".join(row.excerpt.split()), row.error)
            for row in await session.execute(failed)
        ],
    )


def _views() -> Select[*tuple[object, ...]]:
    return select(
        AnalyticsJob.id,
        Project.name.label("project"),
        AnalyticsJob.type,
        AnalyticsJob.model_name,
        AnalyticsJob.status,
        AnalyticsJob.progress,
        AnalyticsJob.total_records,
        AnalyticsJob.processed_count,
        AnalyticsJob.failed_count,
        AnalyticsJob.error_message.label("error"),
        AnalyticsJob.warnings,
        AnalyticsJob.created_at,
        AnalyticsJob.started_at,
        AnalyticsJob.completed_at,
    ).join(Project, Project.id == AnalyticsJob.project_id)
