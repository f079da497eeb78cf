"""Revision 0025 gives jobs that wait already the model that they ask."""

import psycopg
from psycopg.rows import tuple_row

from tests.conftest import migrate


def test_jobs_that_wait_keep_the_model_that_they_name(empty_database_url):
    """Rows of an older release, and rows that it writes afterwards. No transition is written."""
    migrate(empty_database_url, to="0024")
    with psycopg.connect(empty_database_url, autocommit=True, row_factory=tuple_row) as admin:
        admin.execute(
            """WITH p AS (INSERT INTO operations.projects (name) VALUES ('p') RETURNING id)
               INSERT INTO operations.analytics_jobs ("projectId", "modelName")
               SELECT p.id, m FROM p, unnest(ARRAY['route:fast', NULL]) AS m"""
        )
        for name, request in (("a", '{"options": {"model": "m"}}'), ("b", "{}")):
            admin.execute(
                "INSERT INTO assessments.assessment_states (assessment_id, request_data) VALUES (%s, %s)",
                [name, request],
            )
        before = admin.execute("SELECT count(*) FROM runtime.transitions").fetchone()

        migrate(empty_database_url, to="0025")

        asked = "SELECT asked_model FROM {} ORDER BY asked_model"
        analyses = admin.execute(asked.format("operations.analytics_jobs").encode()).fetchall()
        assessments = admin.execute(asked.format("assessments.assessment_states").encode()).fetchall()
        after = admin.execute("SELECT count(*) FROM runtime.transitions").fetchone()
    assert analyses == [("gpt-3.5-turbo",), ("route:fast",)]
    assert assessments == [("gpt-3.5-turbo",), ("m",)]
    assert after == before
