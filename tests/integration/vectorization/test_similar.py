"""Similarity search on real Postgres: by the index, by comparing with all records, and without pgvector."""

import json
import random
import uuid
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from tests.conftest import sqlalchemy_url
from workers.llm import feature_hash
from workers.vectorization.similar import NotComparable, Vector, similar

MODEL = "offline-hash-v1"
COUNT = 3_000
# Repeated subjects make neighbours. As in real records, similarities must differ by degrees.
SUBJECTS = ("poem", "invoice", "recipe", "contract", "lesson", "letter", "report", "story", "song", "plan")
VERBS = ("Write", "Summarise", "Translate", "Explain", "Improve", "Shorten", "Check", "Rewrite")
MATTERS = ("the sea", "late payment", "three cheeses", "a lease", "fractions", "a refund", "rainfall", "a lost dog")
READERS = ("a child", "my manager", "a customer", "the tax office", "beginners", "an expert", "my neighbour")


def sentence(draw: random.Random) -> str:
    return (
        f"{draw.choice(VERBS)} a {draw.choice(SUBJECTS)} about {draw.choice(MATTERS)} for {draw.choice(READERS)}, "
        f"in {draw.randint(2, 900)} words, with {draw.choice(SUBJECTS)} and {draw.choice(MATTERS)}: {draw.random()}"
    )


def literal(vector: Any) -> str:
    return "{" + ",".join(map(str, vector)) + "}"


def put(connection: "psycopg.Connection[Any]", records: list[dict[str, Any]]) -> list[uuid.UUID]:
    """Insert records with vectors; return their ids in order."""
    rows = connection.execute(
        """INSERT INTO operations.data_records
                  ("projectId", type, category, source, content, embedding, "embeddingModel")
           SELECT r."projectId", r.type, r.category, 'test', r.content, r.embedding, r."embeddingModel"
             FROM jsonb_array_elements(%s::jsonb) WITH ORDINALITY AS e(record, nth)
            CROSS JOIN LATERAL jsonb_populate_record(NULL::operations.data_records, e.record) AS r
            ORDER BY nth RETURNING id""",
        [json.dumps(records, default=str)],
    ).fetchall()
    return [row[0] for row in rows]


def project(connection: "psycopg.Connection[Any]", name: str) -> uuid.UUID:
    row = connection.execute("INSERT INTO operations.projects (name) VALUES (%s) RETURNING id", (name,)).fetchone()
    assert row is not None
    found: uuid.UUID = row[0]
    return found


@pytest.fixture(scope="module")
def corpus(shared_database_url: str) -> Any:
    """Two projects of more or less similar records with vectors of the offline embedder, deleted after the module."""
    draw = random.Random(5)
    with psycopg.connect(shared_database_url, autocommit=True) as connection:
        projects = [project(connection, f"similar {name}") for name in ("large", "small")]
        records = []
        for number in range(COUNT):
            content = sentence(draw)
            records.append(
                {
                    "projectId": projects[number % 20 == 0],
                    "type": "FEEDBACK" if number % 3 == 0 else "TASK",
                    "category": {0: "TOP_10", 1: "BOTTOM_10"}.get(number % 10),
                    "content": content,
                    "embedding": list(feature_hash.vector(content)),
                    "embeddingModel": MODEL,
                }
            )
        ids = put(connection, records)
        other = [{**records[0], "content": "of another model", "embeddingModel": "another-384"}]
        other += [{**records[0], "content": "of another length", "embedding": [0.5] * 16}]
        put(connection, other)
        connection.execute("ANALYZE operations.data_records")
        yield projects, ids
        connection.execute("DELETE FROM operations.projects WHERE id = ANY (%s)", (projects,))


# Scans of the index in this transaction: they show whether a search used it.
SCANS = text("SELECT pg_stat_get_xact_numscans('operations.ix_data_records_embedding_384'::regclass)")
FILTERS: list[dict[str, Any]] = [
    {},
    {"project": 0},
    {"project": 1},
    {"type_": "FEEDBACK"},
    {"project": 0, "type_": "TASK", "category": "TOP_10"},
]


@pytest.mark.parametrize("filters", FILTERS, ids=str)
async def test_index_finds_what_comparing_with_all_finds(session: AsyncSession, corpus: Any, filters: Any) -> None:
    """At least 95 % of the nearest records per filter, in order, with the similarities of the stored vectors."""
    projects, _ = corpus
    draw = random.Random(7)
    wanted = dict(filters)
    if "project" in wanted:
        wanted["project_id"] = projects[wanted.pop("project")]
    await session.execute(text("SET LOCAL enable_seqscan = off"))
    await session.execute(text("SET LOCAL enable_sort = off"))
    scans = await session.scalar(SCANS)
    hits = expected = 0
    for _ in range(20):
        to = Vector(feature_hash.vector(sentence(draw)), MODEL)
        exact = await similar(session, to=to, exact=True, **wanted)
        found = await similar(session, to=to, **wanted)

        shown = {match.record.id: match.similarity for match in exact}
        hits += sum(match.record.id in shown for match in found)
        expected += len(exact)
        assert len(found) == len(exact) == 10
        assert [match.similarity for match in found] == sorted((m.similarity for m in found), reverse=True)
        for match in found:
            assert shown.get(match.record.id, match.similarity) == pytest.approx(match.similarity, abs=1e-9)
            assert match.record.project_id == wanted.get("project_id", match.record.project_id)
            assert match.record.type == wanted.get("type_", match.record.type)
            assert match.record.embedding_model == MODEL

    assert hits / expected >= 0.95
    assert await session.scalar(SCANS) == scans + 20


async def test_search_without_filters_is_answered_by_the_index(session: AsyncSession, corpus: Any) -> None:
    """The plan of the same expression names the index."""
    await session.execute(text("SET LOCAL enable_seqscan = off"))
    vector = str(list(feature_hash.vector("a poem")))
    plan = await session.scalars(
        text(
            "EXPLAIN SELECT r.id FROM operations.data_records AS r WHERE cardinality(r.embedding) = 384"
            " ORDER BY (r.embedding::halfvec(384)) <=> CAST(:vector AS halfvec(384)) LIMIT 40"
        ),
        {"vector": vector},
    )

    assert "ix_data_records_embedding_384" in "\n".join(plan)


async def test_record_is_not_like_itself_but_like_its_neighbours(session: AsyncSession, corpus: Any) -> None:
    """The record itself is left out, and its near duplicate comes first."""
    projects, ids = corpus
    original = await session.scalar(text("SELECT content FROM operations.data_records WHERE id = :id"), {"id": ids[40]})
    twin = f"{original}!"
    connection = await session.connection()
    await connection.execute(
        text(
            """INSERT INTO operations.data_records ("projectId", type, source, content, embedding, "embeddingModel")
               VALUES (:project, 'TASK', 'test', :content, CAST(:vector AS real[]), :model)"""
        ),
        {"project": projects[0], "content": twin, "vector": literal(feature_hash.vector(twin)), "model": MODEL},
    )

    for exact in (True, False):
        found = await similar(session, to=ids[40], limit=3, exact=exact)
        assert [match.record.content for match in found][:1] == [twin]
        assert ids[40] not in {match.record.id for match in found}
        assert found[0].similarity == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("exact", [True, False])
async def test_vectors_of_another_model_or_length_are_never_compared(
    session: AsyncSession, corpus: Any, *, exact: bool
) -> None:
    """Each search finds only vectors of its own model and length, although the index has others."""
    same_numbers = feature_hash.vector("a poem")

    (found,) = await similar(session, to=Vector(same_numbers, "another-384"), exact=exact)
    (short,) = await similar(session, to=Vector([0.5] * 16, MODEL), exact=exact)

    assert (found.record.content, short.record.content) == ("of another model", "of another length")
    assert await similar(session, to=Vector(same_numbers, "nobody's"), exact=exact) == []


async def test_record_without_a_vector_or_without_a_row_is_refused(session: AsyncSession) -> None:
    """In one line with the reason."""
    made = await session.scalar(text("INSERT INTO operations.projects (name) VALUES ('waiting') RETURNING id"))
    waiting = await session.scalar(
        text(
            """INSERT INTO operations.data_records ("projectId", type, source, content)
               VALUES (:project, 'TASK', 'test', 'pending') RETURNING id"""
        ),
        {"project": made},
    )
    gone = uuid.uuid4()

    with pytest.raises(NotComparable, match=f"record {waiting} has no vector yet"):
        await similar(session, to=waiting)
    with pytest.raises(NotComparable, match=f"record {gone} does not exist"):
        await similar(session, to=gone)


async def test_database_without_pgvector_answers_the_same(fresh_database_url: str) -> None:
    """The same records in the same order, with the same similarities."""
    draw = random.Random(3)
    with psycopg.connect(fresh_database_url, autocommit=True) as connection:
        made = project(connection, "plain")
        contents = [sentence(draw) for _ in range(60)]
        common = {"projectId": made, "type": "TASK", "embeddingModel": MODEL}
        put(connection, [{**common, "content": c, "embedding": list(feature_hash.vector(c))} for c in contents])
    to = Vector(feature_hash.vector("Translate a poem about the sea for a child"), MODEL)
    engine = create_async_engine(sqlalchemy_url(fresh_database_url))

    async with AsyncSession(engine) as session:
        with_it = [(m.record.id, m.similarity) for m in await similar(session, to=to, exact=True)]
        await session.execute(text("DROP EXTENSION vector CASCADE"))
        without = [(m.record.id, m.similarity) for m in await similar(session, to=to)]
    await engine.dispose()

    assert [id_ for id_, _ in without] == [id_ for id_, _ in with_it]
    assert [s for _, s in without] == pytest.approx([s for _, s in with_it], abs=1e-6)
