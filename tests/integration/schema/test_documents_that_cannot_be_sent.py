"""No document is stored that Postgres cannot send as text; lists and exports work with such rows of older releases."""

import io
import uuid
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from workers.ingestion.export import export_records
from workers.operations import record_review
from workers.runtime.database import Database

# Each takes less than a megabyte to store. As text they have 20 MB and 1.1 GB; Postgres cannot send the latter.
LONG = "(SELECT jsonb_build_object('a', jsonb_agg(1e-16383::numeric)) FROM generate_series(1, {}))"
OVER_A_GIGABYTE = LONG.format(70_000)
OVER_THE_BOUND = LONG.format(3_000)
MEASURED_BY_TEXT = """
    SELECT t.typname, EXISTS (SELECT FROM pg_constraint AS c WHERE c.contypid = t.oid
                                AND pg_get_constraintdef(c.oid) LIKE '%%octet_length((VALUE)::text)%%') AS measured
      FROM pg_type AS t WHERE t.typbasetype = 'jsonb'::regtype AND t.typname <> 'context'"""

Psql = psycopg.Connection[dict[str, Any]]


@pytest.fixture
def psql(fresh_database_url: str) -> Any:
    with psycopg.connect(fresh_database_url, autocommit=True, row_factory=dict_row) as connection:
        yield connection


@pytest.fixture
def database_url(psql: Psql, fresh_database_url: str) -> str:
    return fresh_database_url


def test_every_domain_of_documents_is_measured_by_its_text(psql):
    found = {row["typname"]: row["measured"] for row in psql.execute(MEASURED_BY_TEXT)}

    assert found
    assert [name for name, measured in found.items() if not measured] == []


@pytest.mark.parametrize("document", [OVER_A_GIGABYTE, OVER_THE_BOUND, "'{\"a\": 0e-16383}'"])
def test_such_a_document_is_refused_wherever_it_is_written(psql, document):
    """This holds if Postgres can write its text and if it cannot; one such number alone is accepted."""
    insert = f"INSERT INTO scoring.profiles (name, attributes) SELECT 'p', {document}".encode()

    if document.startswith("'"):
        assert psql.execute(insert).rowcount == 1
        return
    with pytest.raises((psycopg.errors.CheckViolation, psycopg.errors.ProgramLimitExceeded)):
        psql.execute(insert)


def from_before(psql: Psql, rule: str, domain: str) -> None:
    """Drop the rule, as if the rows were from an older release."""
    psql.execute(f"ALTER DOMAIN runtime.{domain} DROP CONSTRAINT {rule}".encode())


def test_assessments_list_and_show_outlive_such_rows(psql, gristmill):
    """This holds for the table and for JSON; a field that cannot be shown says why."""
    from_before(psql, "text_at_most_8_mib", "payload")
    psql.execute(
        "INSERT INTO assessments.assessment_states (assessment_id, request_data)"
        f" SELECT 'bomb', {OVER_A_GIGABYTE}".encode()
    )
    psql.execute(
        "INSERT INTO assessments.assessment_states (assessment_id, request_data) VALUES ('good', '{\"a\": \"x\"}')"
    )

    for arguments in (("list",), ("list", "--json"), ("show", "bomb"), ("show", "bomb", "--json")):
        code, output, said = gristmill("assessments", *arguments)
        assert (code, said) == (0, ""), arguments
        assert "bomb" in output
        assert arguments[0] == "show" or "good" in output
        assert "--json" not in arguments or "must have at most 16,777,216 bytes to be shown" in output


async def test_records_are_listed_shown_and_exported_past_such_rows(psql, database_url):
    """A list cuts contents. Metadata that cannot be read says so; the other fields are complete."""
    from_before(psql, "text_at_most_32_mib", "document")
    project = psql.execute("INSERT INTO operations.projects (name) VALUES ('p') RETURNING id").fetchone()
    assert project is not None
    insert = (
        'INSERT INTO operations.data_records ("projectId", type, source, content, metadata)'
        " SELECT %s, 'TASK', 's', {}, {} RETURNING id"
    )
    bomb = psql.execute(insert.format("'bomb'", OVER_A_GIGABYTE).encode(), [project["id"]]).fetchone()
    psql.execute(insert.format("repeat('x', 100000)", "'{\"a\": 1}'").encode(), [project["id"]])
    assert bomb is not None

    database = Database(database_url, changed_by="test")
    try:
        async with database.session() as session:
            good, bad = await record_review.list_records(session, project_id=project["id"])
            shown = await record_review.show(session, uuid.UUID(str(bomb["id"])))
            into = io.StringIO()
            assert await export_records(session, project["id"], into) == 2
    finally:
        await database.close()

    assert (good.metadata, len(good.content)) == ({"a": 1}, record_review.MAX_LISTED_CONTENT_CHARACTERS)
    assert str(bad.metadata) == "<cannot be read: its JSON has more than 262,144 bytes>"
    assert "cannot be read" in str(shown.record.metadata)
    assert "(too large to be read)" in into.getvalue()
