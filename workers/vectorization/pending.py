"""Every statement of this stage: find the records that wait for a vector, and write their vectors."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from models.operations import INGESTION, IngestJob
from workers.runtime.handler.errors import Retryable

LOWEST_ID = UUID(int=0)
# Two pages are in memory at once: the current one and the next one.
MAX_PAGE_BYTES = 8 * 1024 * 1024

# Records without a vector ("empty") have no model, which a CHECK ensures, and an index finds them. Records with a
# vector of another model or length ("stale") are found by comparing. The length is compared last, because that reads
# the vector from TOAST.
PendingKind = Literal["empty", "stale"]

_ENDED = ", ".join(f"'{state}'" for state in sorted(INGESTION.terminal))
_NO_FILE = 'source IS NULL AND "uploadId" IS NULL AND "totalRecords" = 0'
_OWN = 'r."projectId" = :project AND r."ingestJobId" = :job'
_OTHERS = f"""
    r."projectId" = :project AND r.type = CAST(:type AS operations."RecordType")
    AND coalesce(r."ingestJobId" <> ALL (ARRAY(
          SELECT id FROM operations.ingest_jobs
           WHERE "projectId" = :project AND id <> :job AND status NOT IN ({_ENDED}))), true)"""  # noqa: S608 - states of ours
_WHAT = {
    "empty": 'r."embeddingModel" IS NULL',
    "stale": """r."embeddingModel" IS NOT NULL
        AND (r."embeddingModel" <> :model OR cardinality(r.embedding) <> CAST(:dimension AS integer))""",
}


@dataclass(frozen=True, slots=True)
class PendingRecord:
    """A record that waits for a vector."""

    id: UUID
    content: str

    @property
    def digest(self) -> str:
        """The SHA-256 of its content in hexadecimal. The vector is written only if the content is still the same."""
        return sha256(self.content.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class EmbeddingTarget:
    """The current model and the length of its vectors, which is known after its first vector."""

    model: str
    dimension: int | None = None


@dataclass(frozen=True, slots=True)
class EmbeddedRecords:
    """The vectors of one request, with their records and model. ``digests`` are those of the embedded texts."""

    ids: Sequence[UUID]
    digests: Sequence[str]
    vectors: Sequence[Sequence[float]]
    model: str


@dataclass(frozen=True, slots=True)
class RecordsToEmbed:
    """The records that a job embeds.

    A job that has loaded a file embeds the records of that file. A job without a file embeds all records of its project
    and type that no other job is working on.
    """

    job_id: UUID
    project_id: UUID
    type: str
    own: bool

    @classmethod
    def of(cls, job: IngestJob) -> "RecordsToEmbed":
        loaded = job.source is not None or job.upload_id is not None or job.total_records > 0
        return cls(job.id, job.project_id, job.type, loaded)

    @property
    def _where(self) -> str:
        return _OWN if self.own else _OTHERS

    @property
    def _values(self) -> dict[str, object]:
        values: dict[str, object] = {"project": self.project_id, "job": self.job_id}
        return values if self.own else {**values, "type": self.type}

    async def older_job(self, session: AsyncSession) -> UUID | None:
        """Return an older job without a file that has not ended and embeds the same records; None if there is none."""
        if self.own:
            return None
        sql = f"""
            SELECT id FROM operations.ingest_jobs
             WHERE "projectId" = :project AND type = CAST(:type AS operations."RecordType") AND {_NO_FILE}
               AND status NOT IN ({_ENDED})
               AND ("createdAt", id) < (SELECT "createdAt", id FROM operations.ingest_jobs WHERE id = :job)
             ORDER BY "createdAt", id LIMIT 1"""  # noqa: S608 - conditions of ours
        found: UUID | None = await session.scalar(text(sql), self._values)
        return found

    async def count(self, session: AsyncSession, model: str) -> tuple[int, int]:
        """Return the number of records, and the number of those with a vector of ``model``."""
        sql = f"""SELECT count(*), count(*) FILTER (WHERE r."embeddingModel" = :model)
                    FROM operations.data_records AS r WHERE {self._where}"""  # noqa: S608 - conditions of ours
        total, embedded = (await session.execute(text(sql), {**self._values, "model": model})).one()
        return total, embedded

    async def page(
        self, session: AsyncSession, what: PendingKind, target: EmbeddingTarget, *, after: UUID, limit: int
    ) -> list[PendingRecord]:
        """Return the next records after ``after`` without a vector of ``target``, by id; empty if none is left."""
        sql = f"""
            SELECT id, content FROM (
              SELECT id, content, sum(octet_length(content)) OVER (ORDER BY id) - octet_length(content) AS before
                FROM (SELECT r.id, r.content FROM operations.data_records AS r
                       WHERE {self._where} AND {_WHAT[what]} AND r.id > :after ORDER BY r.id LIMIT :limit) AS few
            ) AS measured WHERE before < :bytes ORDER BY id"""  # noqa: S608 - conditions of ours
        values = {**self._values, "after": after, "limit": limit, "bytes": MAX_PAGE_BYTES}
        if what == "stale":
            values |= {"model": target.model, "dimension": target.dimension}
        return [PendingRecord(*row) for row in await session.execute(text(sql), values)]


# With ``ANY`` the planner uses the primary key, whatever its statistics say.
_KEEP = text("""
    UPDATE operations.data_records AS r SET embedding = CAST(v.vector AS real[]), "embeddingModel" = v.model
      FROM unnest(CAST(:ids AS uuid[]), CAST(:digests AS text[]), CAST(:vectors AS text[]), CAST(:models AS text[]))
           AS v(id, digest, vector, model)
     WHERE r.id = v.id AND r.id = ANY (CAST(:ids AS uuid[])) AND r."contentHash" = decode(v.digest, 'hex')""")


async def save_vectors(session: AsyncSession, *, project_id: UUID, group: Sequence[EmbeddedRecords]) -> None:
    """Write these vectors in one statement. Records that were deleted or have another content now are left out.

    Call it in a checkpoint, because its transaction locks the job's row. Raises Retryable if the project is being
    deleted.
    """
    if not await session.scalar(text("SELECT operations.hold_project(:project)"), {"project": project_id}):
        raise Retryable(f"project {project_id} is being deleted")
    rows = sorted(
        (id_.hex, digest, vector, one.model)
        for one in group
        for id_, digest, vector in zip(one.ids, one.digests, map(_literal, one.vectors), strict=True)
    )
    ids, digests, vectors, models = zip(*rows, strict=True)
    arrays = {"ids": ids, "digests": digests, "vectors": vectors}
    values = {name: f"{{{','.join(array)}}}" for name, array in arrays.items()}
    await session.execute(_KEEP, {**values, "models": list(models)})


def _literal(vector: Sequence[float]) -> str:
    """Return ``vector`` as an element of a Postgres text array. The driver's own way takes twice as long."""
    return f'"{{{str(list(vector))[1:-1]}}}"'
