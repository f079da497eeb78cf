"""The results of analyses in a project's records so far, counted by record type."""

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from models.operations import LLM_USER, DataRecord, LikertScore
from workers.runtime.database import Raw

NOT_JUDGED = "not judged"


@dataclass(frozen=True, slots=True)
class MeanRating:
    """The mean ratings by one model, 1 (worst) to 7 (best)."""

    model: str
    realism: float
    quality: float


@dataclass(frozen=True, slots=True)
class Findings:
    """The number of records per verdict, and the mean ratings by a model, each by record type."""

    verdicts: Mapping[str, Mapping[str, int]]
    ratings: Mapping[str, MeanRating]


@dataclass(frozen=True, slots=True)
class JudgingProgress:
    """The progress of one analysis: its records, the judged ones, those it could not judge, whether it has ended."""

    total: int
    judged: int
    failed: int
    ended: bool


async def project_findings(session: AsyncSession, project_id: UUID) -> Findings:
    """Return the verdicts of a project's records and the mean ratings. If several models rated, those of one model."""
    verdict = DataRecord.alignment["verdict"].astext
    counted = select(DataRecord.type, verdict, func.count()).where(DataRecord.project_id == project_id)
    verdicts: dict[str, dict[str, int]] = {}
    for type_, found, count in await session.execute(counted.group_by(DataRecord.type, verdict)):
        verdicts.setdefault(type_, {})[found or NOT_JUDGED] = count
    means = func.avg(LikertScore.realism_score), func.avg(LikertScore.quality_score)
    rated = await session.execute(
        select(DataRecord.type, LikertScore.llm_model, *means)
        .join(DataRecord, DataRecord.id == LikertScore.record_id)
        .where(DataRecord.project_id == project_id, LikertScore.user_id == LLM_USER)
        .group_by(DataRecord.type, LikertScore.llm_model)
    )
    ratings = {type_: MeanRating(str(model), float(one), float(other)) for type_, model, one, other in rated}
    return Findings(verdicts, ratings)


async def judging_progress(conn: Raw, job_id: UUID) -> JudgingProgress:
    """Return the progress of an analysis. A deleted analysis has ended."""
    cursor = await conn.execute(
        """SELECT "totalRecords", "processedCount" - "failedCount", "failedCount", completed_at IS NOT NULL
             FROM operations.analytics_jobs WHERE id = %s""",
        [job_id],
    )
    return JudgingProgress(*(await cursor.fetchone() or (0, 0, 0, True)))
