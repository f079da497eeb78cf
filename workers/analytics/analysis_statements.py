"""The statements of an analysis: which records it still has to judge, and how what it found is kept."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, String, and_, case, cast, func, literal, null, or_, select, text, true
from sqlalchemy.ext.asyncio import AsyncSession

from models.operations import LLM_USER, AnalyticsFailure, AnalyticsJob, DataRecord
from workers.analytics.alignment import RECORD_CHARS, Judged, Record
from workers.analytics.crew import Finished
from workers.runtime.handler.errors import Retryable, failure_of

PER_PAGE = 128
# How soon an analysis that waits for its turn looks again.
TURN = timedelta(seconds=30)
# The first of the two keys of our advisory locks: "ALGN".
_LOCK_SPACE = 0x414C474E
_HAS_TURN, _BEGUN, _NOT_BEGUN = range(3)


@dataclass(frozen=True, slots=True)
class AnalysedRecords:
    """Which records a job is about."""

    job_id: UUID
    project_id: UUID
    type: str | None

    @classmethod
    def of(cls, job: AnalyticsJob) -> "AnalysedRecords":
        return cls(job.id, job.project_id, job.type)

    def where(self) -> ColumnElement[bool]:
        of_type = DataRecord.type == self.type if self.type else true()
        return (DataRecord.project_id == self.project_id) & of_type


@dataclass(slots=True)
class AnalysisProgress:
    """How far a job is: its records, those it judged, those it could not."""

    total: int
    judged: int
    failed: int

    @property
    def finished(self) -> int:
        return self.judged + self.failed

    def add(self, batch: Sequence[Finished]) -> None:
        judged = sum(isinstance(one, Judged) for one in batch)
        self.judged += judged
        self.failed += len(batch) - judged

    def values(self) -> dict[str, Any]:
        """Return the attributes of the job's row that say so."""
        # What was added since the count is judged too: nobody is shown more than all, until it is counted again.
        self.total = max(self.total, self.finished)
        return {"total_records": self.total, "processed_count": self.finished, "failed_count": self.failed}

    @property
    def percent(self) -> int:
        return min(max(100 * self.finished // max(self.total, 1), 1), 99)


async def ahead(session: AsyncSession, scope: AnalysedRecords, *, begun: bool) -> UUID | None:
    """Return the first analysis of any of the same records whose turn comes before this one's, and has not ended.

    First the one that has taken its turn and runs, then those that have judged anything (``begun`` says whether this
    one has), then the others; the oldest first. One that has begun nothing and is not due for longer than all look
    again after is passed over. No two wait for each other, and somebody always goes on: at every moment this is one
    strict order, and its first waits for nobody.
    """
    has_turn = AnalyticsJob.resume_at["turn"].astext == cast(AnalyticsJob.version, String)
    rank = case((has_turn, _HAS_TURN), (AnalyticsJob.processed_count > 0, _BEGUN), else_=_NOT_BEGUN)
    own = _BEGUN if begun else _NOT_BEGUN
    before = select(AnalyticsJob.id).where(
        AnalyticsJob.project_id == scope.project_id,
        AnalyticsJob.id != scope.job_id,
        AnalyticsJob.status.not_in(AnalyticsJob.__lifecycle__.terminal),
        or_(AnalyticsJob.type.is_(None), AnalyticsJob.type == scope.type) if scope.type else true(),
        or_(rank < own, and_(rank == own, AnalyticsJob.id < scope.job_id)),
        or_(rank < _NOT_BEGUN, AnalyticsJob.due_at.is_(None), AnalyticsJob.due_at <= func.now() + TURN),
    )
    return await session.scalar(before.order_by(rank, AnalyticsJob.id).limit(1))


async def look_alone(session: AsyncSession, scope: AnalysedRecords) -> None:
    """Have no other analysis of the project look whose turn it is until this transaction ends.

    It waits for nothing but such looks, so that whoever waits for them here, its job's row locked, waits in no circle.
    """
    key = int.from_bytes(scope.project_id.bytes[-4:], "big", signed=True)
    await session.execute(select(func.pg_advisory_xact_lock(_LOCK_SPACE, key)))


async def tally(session: AsyncSession, scope: AnalysedRecords) -> AnalysisProgress:
    """Count the records of ``scope`` and what this job has done of them so far, in this run or an earlier one."""
    failed = _failed_in(scope)
    judged = DataRecord.alignment_job_id == scope.job_id
    counted = select(
        func.count().label("total"),
        func.count().filter(judged).label("judged"),
        func.count().filter(failed & judged.is_not(true())).label("failed"),
    )
    row = (await session.execute(counted.where(scope.where()))).one()
    return AnalysisProgress(row.total, row.judged, row.failed)


async def unfinished(
    session: AsyncSession, scope: AnalysedRecords, *, after: UUID | None, embedding_model: str
) -> list[tuple[Record, list[float] | None]]:
    """Return the next records that this job has neither judged nor failed at, by id, each with its own vector.

    A vector of another model is none. Of each content no more is read than a model is shown.
    """
    own = DataRecord.embedding_model == embedding_model
    page = (
        select(
            DataRecord.id,
            DataRecord.type,
            func.left(DataRecord.content, RECORD_CHARS).label("content"),
            (func.length(DataRecord.content) > RECORD_CHARS).label("truncated"),
            DataRecord.content_hash,
            func.coalesce(own, literal(value=False)).label("own"),
            DataRecord.embedding,
        )
        .where(
            scope.where(),
            DataRecord.alignment_job_id.is_distinct_from(scope.job_id),
            ~_failed_in(scope),
            DataRecord.id > after if after else true(),
        )
        .order_by(DataRecord.id)
        .limit(PER_PAGE)
    )
    return [
        (Record(row.id, row.type, row.content, row.truncated, row.content_hash), row.embedding if row.own else None)
        for row in await session.execute(page)
    ]


def _failed_in(scope: AnalysedRecords) -> ColumnElement[bool]:
    failure = select(null()).where(AnalyticsFailure.job_id == scope.job_id, AnalyticsFailure.record_id == DataRecord.id)
    return failure.exists()


_LOCK = text(
    'SELECT id, "contentHash" FROM operations.data_records WHERE id = ANY (:ids) ORDER BY id FOR NO KEY UPDATE'
)
_RECORDS = text("""
    UPDATE operations.data_records AS r
       SET "alignmentAnalysis" = v.analysis, alignment = v.alignment, "alignmentJobId" = :job_id
      FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS v (record_id uuid, analysis text, alignment jsonb)
     WHERE r.id = v.record_id""")
_RATINGS = text("""
    INSERT INTO operations.likert_scores ("recordId", "userId", "realismScore", "qualityScore", "llmModel")
    SELECT v.record_id, :llm_user, v.realism, v.quality, v.model
      FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS v (record_id uuid, realism int, quality int, model text)
    ON CONFLICT ("recordId", "llmModel") WHERE "llmModel" IS NOT NULL
    DO UPDATE SET "realismScore" = excluded."realismScore", "qualityScore" = excluded."qualityScore" """)
_FAILURES = text("""
    INSERT INTO operations.analytics_failures ("jobId", "recordId", error)
    SELECT :job_id, v.record_id, v.error
      FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS v (record_id uuid, error text)
    ON CONFLICT ("jobId", "recordId") DO UPDATE SET error = excluded.error""")


async def keep(
    session: AsyncSession, scope: AnalysedRecords, finished: Sequence[Finished], *, read: Mapping[UUID, bytes]
) -> None:
    """Write judgements, ratings and failures; records deleted meanwhile are left out. The same again changes nothing.

    ``read`` are the content hashes of what was judged: a record with another content by now waits to be judged again.
    Meant for a checkpoint, whose transaction holds the job's row.
    """
    await spare(session, scope.project_id)
    ids = sorted(one.record_id for one in finished)
    there = {id_ for id_, content in await session.execute(_LOCK, {"ids": ids}) if bytes(content) == read.get(id_)}
    judged = [_row(one) for one in finished if isinstance(one, Judged) and one.record_id in there]
    failed = [
        {"record_id": str(one.record_id), "error": failure_of(one.error)}
        for one in finished
        if not isinstance(one, Judged) and one.record_id in there
    ]
    if judged:
        rows = json.dumps(judged)
        await session.execute(_RECORDS, {"rows": rows, "job_id": scope.job_id})
        await session.execute(_RATINGS, {"rows": rows, "llm_user": LLM_USER})
    if failed:
        await session.execute(_FAILURES, {"rows": json.dumps(failed), "job_id": scope.job_id})


async def spare(session: AsyncSession, project_id: UUID) -> None:
    """Keep the project from being deleted until this transaction ends; raise Retryable where that has begun."""
    if not await session.scalar(select(func.operations.hold_project(project_id))):
        raise Retryable(f"project {project_id} is being deleted")


def _row(one: Judged) -> dict[str, Any]:
    return {
        "record_id": str(one.record_id),
        "analysis": one.analysis,
        "alignment": one.alignment,
        "realism": one.realism,
        "quality": one.quality,
        "model": one.model,
    }
