"""Which records wait for a vector, and how their vectors are kept: every statement of this stage."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from models.operations import INGESTION, IngestJob
from workers.runtime.handler.errors import Retryable

FIRST = UUID(int=0)
# A page is held in memory as a whole, and the next one beside it.
PAGE_BYTES = 8 * 1024 * 1024

# A record without a vector has no model either, by a CHECK, and an index of its own. Those of another model or length
# are found by looking, at the length last: that takes the whole vector out of where large values are.
What = Literal["empty", "stale"]

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
class Pending:
    """A record that waits for a vector."""

    id: UUID
    content: str

    @property
    def digest(self) -> str:
        """The SHA-256 of its content, in hexadecimal: its vector is kept only while the content is the same."""
        return sha256(self.content.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Target:
    """Whose vectors, and of which length, are current; the length is known once the model has given one."""

    model: str
    dimension: int | None = None


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors that one request brought, by record, and who made them; ``digests`` are those of the embedded texts."""

    ids: Sequence[UUID]
    digests: Sequence[str]
    vectors: Sequence[Sequence[float]]
    model: str


@dataclass(frozen=True, slots=True)
class Scope:
    """The records that are a job's to embed.

    A job that has loaded a file embeds what came from it. One that has not embeds its project's records of its type,
    those apart that another job is still about.
    """

    job_id: UUID
    project_id: UUID
    type: str
    own: bool

    @classmethod
    def of(cls, job: IngestJob) -> "Scope":
        loaded = job.source is not None or job.upload_id is not None or job.total_records > 0
        return cls(job.id, job.project_id, job.type, loaded)

    @property
    def _where(self) -> str:
        return _OWN if self.own else _OTHERS

    @property
    def _values(self) -> dict[str, object]:
        values: dict[str, object] = {"project": self.project_id, "job": self.job_id}
        return values if self.own else {**values, "type": self.type}

    async def elder(self, session: AsyncSession) -> UUID | None:
        """Return an older job that still lives and whose records these are too, as of two jobs without a file."""
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
        """Return how many records there are, and how many have a vector of ``model``."""
        sql = f"""SELECT count(*), count(*) FILTER (WHERE r."embeddingModel" = :model)
                    FROM operations.data_records AS r WHERE {self._where}"""  # noqa: S608 - conditions of ours
        total, embedded = (await session.execute(text(sql), {**self._values, "model": model})).one()
        return total, embedded

    async def page(
        self, session: AsyncSession, what: What, target: Target, *, after: UUID, limit: int
    ) -> list[Pending]:
        """Return the next records after ``after`` that wait for ``target``'s vector, by id; none: there are no more."""
        sql = f"""
            SELECT id, content FROM (
              SELECT id, content, sum(octet_length(content)) OVER (ORDER BY id) - octet_length(content) AS before
                FROM (SELECT r.id, r.content FROM operations.data_records AS r
                       WHERE {self._where} AND {_WHAT[what]} AND r.id > :after ORDER BY r.id LIMIT :limit) AS few
            ) AS measured WHERE before < :bytes ORDER BY id"""  # noqa: S608 - conditions of ours
        values = {**self._values, "after": after, "limit": limit, "bytes": PAGE_BYTES}
        if what == "stale":
            values |= {"model": target.model, "dimension": target.dimension}
        return [Pending(*row) for row in await session.execute(text(sql), values)]


# ``ANY`` makes the planner walk these keys of the primary key's index, whatever it believes of the table.
_KEEP = text("""
    UPDATE operations.data_records AS r SET embedding = CAST(v.vector AS real[]), "embeddingModel" = v.model
      FROM unnest(CAST(:ids AS uuid[]), CAST(:digests AS text[]), CAST(:vectors AS text[]), CAST(:models AS text[]))
           AS v(id, digest, vector, model)
     WHERE r.id = v.id AND r.id = ANY (CAST(:ids AS uuid[])) AND r."contentHash" = decode(v.digest, 'hex')""")


async def keep(session: AsyncSession, *, project_id: UUID, group: Sequence[Embedded]) -> None:
    """Write these vectors in one statement; records that are gone, or have another content by now, are left out.

    Meant for a checkpoint, whose transaction holds the job's row; raise Retryable where the project is being deleted.
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
    """Return ``vector`` as an element of an array of texts, as Postgres reads it: the driver's way costs twice that."""
    return f'"{{{str(list(vector))[1:-1]}}}"'
