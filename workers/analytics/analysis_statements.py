"""The statements of an analysis: find the records to judge, save judgements and failures, take turns."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, String, and_, case, cast, func, literal, null, or_, select, text, true
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from models.operations import LLM_USER, AnalyticsFailure, AnalyticsJob, AnalyticsTurn, DataRecord
from workers.analytics.alignment import MAX_JUDGED_CHARS, Finished, Judged, RecordToJudge
from workers.runtime.handler.errors import Retryable, failure_of

RECORDS_PER_PAGE = 128
# How long an analysis waits before it checks again whether it is its turn.
TURN_RETRY_DELAY = timedelta(seconds=30)
_HAS_TURN, _BEGUN, _NOT_BEGUN = range(3)


@dataclass(frozen=True, slots=True)
class AnalysedRecords:
    """The records that a job analyses."""

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
    """The progress of a job: its records, the judged ones, those that could not be judged."""

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
        """Return the values of the job's row."""
        # Records that were added since the last count are judged, too: the total must not be less than finished.
        self.total = max(self.total, self.finished)
        return {"total_records": self.total, "processed_count": self.finished, "failed_count": self.failed}

    @property
    def percent(self) -> int:
        return min(max(100 * self.finished // max(self.total, 1), 1), 99)


async def find_earlier_analysis(session: AsyncSession, scope: AnalysedRecords, *, begun: bool) -> UUID | None:
    """Return the first unfinished analysis of the same records that comes before this one; None if there is none.

    The order: the analysis that has its turn and runs, then those that have judged a record (``begun`` says whether
    this one has), then the others; within each group the oldest first. An analysis that has judged nothing is left out
    if it is not due within TURN_RETRY_DELAY. At every moment this is one strict order, and the first one waits for
    nobody. So no two wait for each other.
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
        or_(rank < _NOT_BEGUN, AnalyticsJob.due_at.is_(None), AnalyticsJob.due_at <= func.now() + TURN_RETRY_DELAY),
    )
    return await session.scalar(before.order_by(rank, AnalyticsJob.id).limit(1))


async def lock_turns(session: AsyncSession, scope: AnalysedRecords) -> None:
    """Lock the project's turns until this transaction ends, so that one analysis at a time checks whose turn it is.

    The locked row has no other use, so waiting for it while the job's row is locked cannot be a deadlock. Unlike an
    advisory lock it needs rights, so no tenant can keep others from their turn.
    """
    row = insert(AnalyticsTurn).values(project_id=scope.project_id)
    locked = row.on_conflict_do_update(
        index_elements=[AnalyticsTurn.project_id], set_={"lookedAt": func.clock_timestamp()}
    )
    await session.execute(locked)


async def count_progress(session: AsyncSession, scope: AnalysedRecords) -> AnalysisProgress:
    """Count the records of ``scope``, and those that this job has judged or failed, in this run or an earlier one."""
    failed = _failed_in(scope)
    judged = DataRecord.alignment_job_id == scope.job_id
    counted = select(
        func.count().label("total"),
        func.count().filter(judged).label("judged"),
        func.count().filter(failed & judged.is_not(true())).label("failed"),
    )
    row = (await session.execute(counted.where(scope.where()))).one()
    return AnalysisProgress(row.total, row.judged, row.failed)


async def list_unfinished(
    session: AsyncSession, scope: AnalysedRecords, *, after: UUID | None, embedding_model: str
) -> list[tuple[RecordToJudge, list[float] | None]]:
    """Return the next records that this job has neither judged nor failed, by id, each with its vector.

    A vector of another model is returned as None. Contents are cut to the length that a model reads.
    """
    own = DataRecord.embedding_model == embedding_model
    page = (
        select(
            DataRecord.id,
            DataRecord.type,
            func.left(DataRecord.content, MAX_JUDGED_CHARS).label("content"),
            (func.length(DataRecord.content) > MAX_JUDGED_CHARS).label("truncated"),
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
        .limit(RECORDS_PER_PAGE)
    )
    return [
        (
            RecordToJudge(row.id, row.type, row.content, row.truncated, row.content_hash),
            row.embedding if row.own else None,
        )
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


async def save_findings(
    session: AsyncSession, scope: AnalysedRecords, finished: Sequence[Finished], *, read: Mapping[UUID, bytes]
) -> None:
    """Write judgements, ratings and failures. Deleted records are left out. Writing the same again changes nothing.

    ``read`` has the content hashes of the judged records. A record with another content now is left out and judged
    again. Call this in a checkpoint, because its transaction locks the job's row.
    """
    await require_project(session, scope.project_id)
    ids = sorted(one.record_id for one in finished)
    unchanged = {id_ for id_, content in await session.execute(_LOCK, {"ids": ids}) if bytes(content) == read.get(id_)}
    judged = [_row(one) for one in finished if isinstance(one, Judged) and one.record_id in unchanged]
    failed = [
        {"record_id": str(one.record_id), "error": failure_of(one.error)}
        for one in finished
        if not isinstance(one, Judged) and one.record_id in unchanged
    ]
    if judged:
        rows = json.dumps(judged)
        await session.execute(_RECORDS, {"rows": rows, "job_id": scope.job_id})
        await session.execute(_RATINGS, {"rows": rows, "llm_user": LLM_USER})
    if failed:
        await session.execute(_FAILURES, {"rows": json.dumps(failed), "job_id": scope.job_id})


async def require_project(session: AsyncSession, project_id: UUID) -> None:
    """Prevent the deletion of the project until this transaction ends; raise Retryable if it is being deleted."""
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
