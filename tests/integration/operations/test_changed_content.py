"""Vectors, verdicts, reviews and ratings belong to a record's content: new content removes them."""

from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import text

from models.operations import LLM_USER
from workers.analytics.alignment import Judged
from workers.analytics.analysis_statements import AnalysedRecords, save_findings
from workers.vectorization.pending import EmbeddedRecords, PendingRecord, save_vectors

SHOWN = """SELECT embedding, "embeddingModel", alignment, "alignmentAnalysis", "alignmentJobId", "hasBeenReviewed",
                  "isCategoryCorrect", "reviewedBy" FROM operations.data_records"""
NOTHING: dict[str, Any] = {
    "embedding": [],
    "embeddingModel": None,
    "alignment": None,
    "alignmentAnalysis": None,
    "alignmentJobId": None,
    "hasBeenReviewed": False,
    "isCategoryCorrect": None,
    "reviewedBy": None,
}


def one(psql: psycopg.Connection[dict[str, Any]], sql: str, *values: Any) -> dict[str, Any]:
    row = psql.execute(sql.encode(), values or None).fetchone()
    assert row is not None
    return row


@pytest.fixture
def record(psql: psycopg.Connection[dict[str, Any]]) -> UUID:
    """A record with vector, verdict, review and ratings."""
    project = one(psql, "INSERT INTO operations.projects (name) VALUES ('p') RETURNING id")["id"]
    id_ = one(
        psql,
        """INSERT INTO operations.data_records ("projectId", type, category, source, content, embedding,
             "embeddingModel", alignment, "alignmentAnalysis", "alignmentJobId", "hasBeenReviewed",
             "isCategoryCorrect", "reviewedBy")
           VALUES (%s, 'TASK', 'TOP_10', 's', 'old', '{0.5,0.5}', 'm', '{"verdict": "aligned"}', 'fine',
                   gen_random_uuid(), true, true, 'ada') RETURNING id""",
        project,
    )["id"]
    for user, model in (("ada", None), (LLM_USER, "judge")):
        psql.execute(
            """INSERT INTO operations.likert_scores ("recordId", "userId", "realismScore", "qualityScore", "llmModel")
               VALUES (%s, %s, 5, 5, %s)""",
            [id_, user, model],
        )
    return UUID(str(id_))


def test_a_record_with_new_content_is_pending_again(psql, record):
    """Vector, verdict, review and ratings of the old content are removed."""
    psql.execute("UPDATE operations.data_records SET content = 'new'")

    assert one(psql, SHOWN) == NOTHING
    assert one(psql, "SELECT count(*) AS n FROM operations.likert_scores") == {"n": 0}


def test_a_record_with_the_same_content_keeps_what_was_said(psql, record):
    """Writing the same content again, or changing another column, removes nothing."""
    before = one(psql, SHOWN)

    psql.execute("UPDATE operations.data_records SET content = content, source = 'elsewhere'")

    assert one(psql, SHOWN) == before
    assert one(psql, "SELECT count(*) AS n FROM operations.likert_scores") == {"n": 2}


def test_what_is_said_of_the_new_content_in_the_same_statement_stays(psql, record):
    """A service can write the new content and its vector in one statement."""
    psql.execute("""UPDATE operations.data_records SET content = 'new', embedding = '{1,0}', "embeddingModel" = 'n',
                           "hasBeenReviewed" = true, "reviewedBy" = 'bob', "isCategoryCorrect" = NULL""")

    assert one(psql, SHOWN) == {
        **NOTHING,
        "embedding": [1.0, 0.0],
        "embeddingModel": "n",
        "hasBeenReviewed": True,
        "reviewedBy": "bob",
    }


def test_the_owner_of_a_project_forgets_other_peoples_ratings_of_the_old_content(psql, record):
    """Ratings of other people for the old content are removed too."""
    owner = one(psql, "INSERT INTO auth.users (email) VALUES ('o@example.test') RETURNING id")["id"]
    try:
        psql.execute("UPDATE operations.profiles SET role = 'USER'")
        psql.execute("""UPDATE operations.projects SET "ownerId" = %s""", [owner])
        with psql.transaction():
            psql.execute("SET LOCAL ROLE gristmill_service")
            psql.execute("SELECT set_config('gristmill.user_id', %s, true)", [str(owner)])
            psql.execute("UPDATE operations.data_records SET content = 'new'")

        assert one(psql, "SELECT count(*) AS n FROM operations.likert_scores") == {"n": 0}
        assert one(psql, "SELECT content FROM operations.data_records") == {"content": "new"}
    finally:
        psql.execute("DELETE FROM auth.users")


def test_the_function_serves_its_own_table_alone(psql, record):
    """Nobody can use the function's rights with another table."""
    psql.execute("CREATE TEMP TABLE mine (id uuid, content text)")
    psql.execute("INSERT INTO mine SELECT id, 'x' FROM operations.data_records")
    psql.execute("CREATE TRIGGER t AFTER UPDATE ON mine FOR EACH ROW EXECUTE FUNCTION operations.forget_old_ratings()")

    with pytest.raises(psycopg.errors.InsufficientPrivilege, match=r"serves operations.data_records"):
        psql.execute("UPDATE mine SET content = 'y'")

    assert one(psql, "SELECT count(*) AS n FROM operations.likert_scores") == {"n": 2}


async def test_a_vector_of_the_old_content_is_not_kept_for_the_new(session):
    """The record was changed during the request, so it waits for a new vector."""
    project, record_id = await _fresh(session)
    asked = PendingRecord(record_id, "old")
    group = [EmbeddedRecords([asked.id], [asked.digest], [[1.0, 0.0]], "m")]

    await session.execute(text("UPDATE operations.data_records SET content = 'new' WHERE id = :id"), {"id": record_id})
    await save_vectors(session, project_id=project, group=group)
    assert await _model(session, record_id) is None

    current = PendingRecord(record_id, "new")
    await save_vectors(
        session, project_id=project, group=[EmbeddedRecords([record_id], [current.digest], [[0.0, 1.0]], "m")]
    )
    assert await _model(session, record_id) == "m"


async def test_every_content_is_known_by_the_digest_that_the_database_makes(session):
    """This holds for any content."""
    for number, content in enumerate(["a", "\\x41", "back\\slash", "naïve 👩‍🔬", "two\nlines"]):
        project, record_id = await _fresh(session, f"q{number}", content)
        one_ = PendingRecord(record_id, content)
        await save_vectors(
            session, project_id=project, group=[EmbeddedRecords([record_id], [one_.digest], [[1.0]], "m")]
        )

        assert await _model(session, record_id) == "m"


async def test_a_judgement_of_the_old_content_is_not_kept_for_the_new(session):
    """The same holds for its ratings."""
    project, record_id = await _fresh(session)
    read = {record_id: bytes(await session.scalar(_HASH, {"id": record_id}))}
    judged = [Judged(record_id, "well", {"verdict": "aligned"}, 6, 6, "judge")]
    scope = AnalysedRecords(UUID(int=7), project, None)

    await session.execute(text("UPDATE operations.data_records SET content = 'new' WHERE id = :id"), {"id": record_id})
    await save_findings(session, scope, judged, read=read)
    assert await _judge(session, record_id) is None

    read = {record_id: bytes(await session.scalar(_HASH, {"id": record_id}))}
    await save_findings(session, scope, judged, read=read)
    assert await _judge(session, record_id) == UUID(int=7)


_HASH = text('SELECT "contentHash" FROM operations.data_records WHERE id = :id')


async def _fresh(session, name="q", content="old"):
    project = await session.scalar(
        text("INSERT INTO operations.projects (name) VALUES (:name) RETURNING id"), {"name": name}
    )
    record_id = await session.scalar(
        text("""INSERT INTO operations.data_records ("projectId", type, source, content)
                VALUES (:project, 'TASK', 's', :content) RETURNING id"""),
        {"project": project, "content": content},
    )
    return project, record_id


async def _model(session, record_id):
    return await session.scalar(
        text('SELECT "embeddingModel" FROM operations.data_records WHERE id = :id'), {"id": record_id}
    )


async def _judge(session, record_id):
    return await session.scalar(
        text('SELECT "alignmentJobId" FROM operations.data_records WHERE id = :id'), {"id": record_id}
    )
