"""Search by similarity: the records nearest to a record, or to any vector of the same model."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from models.operations import DataRecord
from workers.runtime.handler.errors import Permanent, RateLimited, Retryable
from workers.runtime.handler.ports import LanguageModel
from workers.runtime.refusals import Failed, NotFound, Problem, Refusal, quoted

# The index has half precision. It returns this many times the limit, and the stored vectors decide which are best.
OVERSAMPLING = 4
MIN_CANDIDATES = 40
# How many vectors the index examines. Measured on 4,700 published texts: with 100, one search in forty missed two or
# more of the nearest ten; with 400, none did.
EF_SEARCH, MAX_EF_SEARCH = 400, 1_000
# The longest vector that an index can hold. A longer one is compared with every record.
MAX_INDEXED_DIMENSION = 4_000
MAX_RESULTS = 1_000
# As text, because the first use in half precision would otherwise decide the parameter's type.
VECTOR_TEXT = "CAST(:vector AS text)"


class NotComparable(NotFound):
    """There is no vector to compare with; the message is one line."""


@dataclass(frozen=True, slots=True)
class Vector:
    """A vector to search by, and its model. It is compared only with vectors of that model."""

    numbers: Sequence[float]
    model: str


class InvalidSearch(Refusal, ValueError):
    """A search breaks a rule. The line names the field, the rule and the value."""


@dataclass(frozen=True, slots=True)
class ComparedRecord:
    """A found record, as it is shown."""

    id: UUID
    project_id: UUID
    type: str
    category: str | None
    source: str
    content: str
    embedding_model: str


@dataclass(frozen=True, slots=True)
class Match:
    """A record and its cosine similarity: 1 the same direction, 0 unrelated, -1 opposite."""

    record: ComparedRecord
    similarity: float


async def embed_text(llm: LanguageModel, text: str) -> Vector:
    """Return the vector of ``text`` by the model that embeds records; raise Failed if it gives none."""
    try:
        answer = await llm.embed([text], model=await llm.embedding_model(), purpose="query")
    except (Permanent, RateLimited, Retryable) as error:
        raise Failed(f"the text cannot be embedded: {error}") from None
    return Vector(answer.vectors[0], answer.model)


async def similar(
    session: AsyncSession,
    *,
    to: UUID | Vector,
    project_id: UUID | None = None,
    type_: str | None = None,
    category: str | None = None,
    limit: int = 10,
    exact: bool = False,
) -> list[Match]:
    """Return the ``limit`` records most similar to a record (without the record itself) or to a vector; best first.

    Only vectors of the same model and length are compared. If there is an index for that length, it is used: it may
    miss a few of a hundred. The similarities are always those of the stored vectors. ``exact`` compares with every
    record, as a database without pgvector always does. Raises NotComparable if the record does not exist or has
    no vector yet.
    """
    if not 1 <= limit <= MAX_RESULTS:
        raise InvalidSearch(Problem("limit", f"must be 1 to {MAX_RESULTS}", quoted(limit)))
    vector = await _searchable_vector(session, to) if isinstance(to, UUID) else to
    search = _Search(
        values={
            "numbers": str(list(vector.numbers)),
            "model": vector.model,
            "limit": limit,
            "project": project_id,
            "type": type_,
            "category": category,
            "itself": to if isinstance(to, UUID) else None,
        },
        dimension=len(vector.numbers),
        pgvector=await _pgvector_schema(session),
    )
    found = await search.run(session, exact=exact)
    columns = select(
        DataRecord.id,
        DataRecord.project_id,
        DataRecord.type,
        DataRecord.category,
        DataRecord.source,
        DataRecord.content,
        DataRecord.embedding_model,
    )
    rows: Any = await session.execute(columns.where(DataRecord.id.in_(found)))
    return sorted(
        (Match(ComparedRecord(*row), found[row[0]]) for row in rows),
        key=lambda match: (-match.similarity, match.record.id),
    )


async def vector_of(session: AsyncSession, record_id: UUID) -> Vector:
    """Return the vector of a record; raise NotComparable if the record does not exist or has no vector yet."""
    row = (
        await session.execute(
            select(DataRecord.embedding, DataRecord.embedding_model).where(DataRecord.id == record_id)
        )
    ).one_or_none()
    if row is None:
        raise NotComparable(f"record {record_id} does not exist (any more)")
    if not row.embedding:
        raise NotComparable(f"record {record_id} has no vector yet; it waits for vectorization")
    return Vector(row.embedding, row.embedding_model)


async def _searchable_vector(session: AsyncSession, record_id: UUID) -> Vector:
    """Return the vector of a record; raise NotComparable also if the vector has no direction."""
    vector = await vector_of(session, record_id)
    if not all(map(math.isfinite, vector.numbers)) or not any(vector.numbers):
        raise NotComparable(f"record {record_id} has a vector without a direction: change its embedding to '{{}}'")
    return vector


async def _pgvector_schema(session: AsyncSession) -> str | None:
    """Return the quoted schema of pgvector, or None if pgvector is not installed."""
    found = await session.scalar(text("SELECT quote_ident(operations.pgvector_schema())"))
    return None if found is None else str(found)


@dataclass(frozen=True, slots=True)
class _Search:
    """One search, by the index or by comparing."""

    values: Mapping[str, Any]
    dimension: int
    pgvector: str | None

    async def run(self, session: AsyncSession, *, exact: bool) -> dict[UUID, float]:
        """Return the similarity of each found record."""
        if self.pgvector is None:
            distance = f"operations.cosine_distance(r.embedding, CAST({VECTOR_TEXT} AS real[]))"
            return await self._best(session, distance, vector="{" + self.values["numbers"][1:-1] + "}")
        if not exact and self.dimension <= MAX_INDEXED_DIMENSION:
            found = await self._by_index(session)
            if len(found) == self.values["limit"]:
                return found
            # Few records pass the filters: the index may have stopped before it found all of them.
        distance = f"r.embedding::{self._type('vector')} {self._operator} CAST({VECTOR_TEXT} AS {self._type('vector')})"
        return await self._best(session, distance, vector=self.values["numbers"])

    async def _best(self, session: AsyncSession, distance: str, *, vector: str) -> dict[UUID, float]:
        """Compare with every record that passes the filters."""
        sql = f"""
            SELECT r.id, nullif(1 - ({distance}), 'NaN') AS similarity FROM operations.data_records AS r
             WHERE {self._where} AND NOT r.embedding && '{{NaN,Infinity,-Infinity}}'::real[]
             ORDER BY similarity DESC NULLS LAST, r.id LIMIT :limit"""  # noqa: S608 - conditions of ours
        return await self._ask(session, sql, vector=vector)

    async def _by_index(self, session: AsyncSession) -> dict[UUID, float]:
        """Take candidates from the index until enough pass the filters, and order them by the stored vectors."""
        candidates = max(self.values["limit"] * OVERSAMPLING, MIN_CANDIDATES)
        ef_search = min(max(candidates, EF_SEARCH), MAX_EF_SEARCH)
        await session.execute(
            text(
                "SELECT set_config('hnsw.iterative_scan', 'relaxed_order', true),"
                " set_config('hnsw.ef_search', :ef, true)"
            ),
            {"ef": str(ef_search)},
        )
        half, whole = self._type("halfvec"), self._type("vector")
        sql = f"""
            WITH near AS MATERIALIZED (
              SELECT r.id, r.embedding FROM operations.data_records AS r WHERE {self._where}
               ORDER BY (r.embedding::{half}) {self._operator} CAST({VECTOR_TEXT} AS {half}) LIMIT :candidates)
            SELECT id,
                   nullif(1 - (embedding::{whole} {self._operator} CAST({VECTOR_TEXT} AS {whole})), 'NaN') AS similarity
              FROM near ORDER BY similarity DESC NULLS LAST, id LIMIT :limit"""  # noqa: S608 - conditions of ours
        return await self._ask(session, sql, vector=self.values["numbers"], candidates=candidates)

    async def _ask(self, session: AsyncSession, sql: str, **more: Any) -> dict[UUID, float]:
        named = {name: value for name, value in self.values.items() if f":{name}" in sql}
        rows = await session.execute(text(sql), {**named, **more})
        return {row.id: float(row.similarity) for row in rows if row.similarity is not None}

    @property
    def _where(self) -> str:
        """Return the conditions of the given filters, and the length in the form that the index has.

        The length comes last: without an index, this condition reads each remaining vector from TOAST.
        """
        conditions = {
            "project": 'r."projectId" = :project',
            "type": 'r.type = CAST(:type AS operations."RecordType")',
            "category": 'r.category = CAST(:category AS operations."RecordCategory")',
            "itself": "r.id <> :itself",
        }
        given = [condition for name, condition in conditions.items() if self.values[name] is not None]
        return " AND ".join(['r."embeddingModel" = :model', *given, f"cardinality(r.embedding) = {self.dimension}"])

    @property
    def _operator(self) -> str:
        return f"OPERATOR({self.pgvector}.<=>)"

    def _type(self, name: str) -> str:
        return f"{self.pgvector}.{name}({self.dimension})"
