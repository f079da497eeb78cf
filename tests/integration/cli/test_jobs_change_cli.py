"""``gristmill jobs retry`` as an operator uses it after the cause of many failures is repaired."""

from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.support.command_line import Gristmill, as_json

Psql = psycopg.Connection[dict[str, Any]]

FAIL = """
    UPDATE {table} SET status = 'failed', version = 13, retry_count = max_retries,
           error_message = 'provider down', completed_at = now() WHERE id = %s"""


def failed(psql: Psql, table: str, insert: str) -> UUID:
    """Return a job of ``table`` that failed with no attempt left."""
    [row] = psql.execute(insert.encode()).fetchall()
    with psql.transaction():
        psql.execute("SET LOCAL session_replication_role = replica")  # five attempts later
        psql.execute(FAIL.format(table=table).encode(), [row["id"]])
    return UUID(str(row["id"]))


@pytest.fixture
def spent(psql: Psql) -> tuple[UUID, UUID]:
    """A job of a table that allows more attempts, and one of a table that does not."""
    psql.execute("INSERT INTO scoring.profiles (name) VALUES ('Ada')")
    scoring = "INSERT INTO scoring.scoring_jobs (profile_id, prompt) SELECT id, 'Judge.' FROM scoring.profiles"
    return (
        failed(psql, "proving.plain_jobs", "INSERT INTO proving.plain_jobs DEFAULT VALUES RETURNING id"),
        failed(psql, "scoring.scoring_jobs", f"{scoring} RETURNING id"),
    )


def test_a_dry_run_shows_which_jobs_would_get_an_attempt_and_changes_nothing(
    gristmill: Gristmill, spent: tuple[UUID, UUID], psql: Psql
) -> None:
    """The real run does what the dry run shows."""
    granted, bound = map(str, spent)
    why = (
        "has no attempt left of 6, and scoring.scoring_jobs allows no more; "
        "`gristmill jobs again ID` enqueues it as a new job"
    )
    command = ("jobs", "retry", "--error", "provider down")

    would = as_json(gristmill, *command, "--dry-run")
    history = psql.execute("SELECT count(*) AS n FROM runtime.transitions").fetchone()
    done = as_json(gristmill, *command)

    assert would == {"dry_run": True, "retried": [granted], "refused": {bound: why}}
    assert history == {"n": 2}
    assert done == {**would, "dry_run": False}
    assert gristmill("jobs", "retry", bound)[2] == f"gristmill: job {bound} {why}"
    [told] = psql.execute("SELECT change_reason FROM runtime.transitions WHERE change_action = 'retry'").fetchall()
    assert told == {"change_reason": "retried on the command line (one attempt granted beyond 6)"}
