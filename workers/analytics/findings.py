"""What analyses have found in a project's records so far, counted by type of record."""

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
    """The means of what one model gave, 1 (worst) to 7 (best)."""

    model: str
    realism: float
    quality: float


@dataclass(frozen=True, slots=True)
class Findings:
    """Records by verdict, and the means of a model's ratings, each by type of record."""

    verdicts: Mapping[str, Mapping[str, int]]
    ratings: Mapping[str, MeanRating]


@dataclass(frozen=True, slots=True)
class JudgingProgress:
    """How far one analysis is: its records, those it judged, those it could not judge, and whether it has ended."""

    total: int
    judged: int
    failed: int
    ended: bool


async def findings(session: AsyncSession, project_id: UUID) -> Findings:
    """Return the verdicts of a project's records and the means of models' ratings. If several models rated, one's."""
    verdict = DataRecord.alignment["verdict"].astext
    counted = select(DataRecord.type, verdict, func.count()).where(DataRecord.project_id == project_id)
    verdicts: dict[str, dict[str, int]] = {}
    for type_, said, count in await session.execute(counted.group_by(DataRecord.type, verdict)):
        verdicts.setdefault(type_, {})[said or NOT_JUDGED] = count
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
    """Return how far an analysis is; one that was deleted has ended."""
    cursor = await conn.execute(
        """SELECT "totalRecords", "processedCount" - "failedCount", "failedCount", completed_at IS NOT NULL
             FROM operations.analytics_jobs WHERE id = %s""",
        [job_id],
    )
    return JudgingProgress(*(await cursor.fetchone() or (0, 0, 0, True)))
