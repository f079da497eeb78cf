"""Bring jobs into a state with SQL, through every step that the guards require, as a person in psql could."""

from typing import Any
from uuid import UUID, uuid4

import psycopg

Psql = psycopg.Connection[dict[str, Any]]
INGEST, ANALYTICS, SCORING, PLAIN = (
    "operations.ingest_jobs",
    "operations.analytics_jobs",
    "scoring.scoring_jobs",
    "proving.plain_jobs",
)
# Tables with another name for the column of the error.
ERROR = {INGEST: "error", ANALYTICS: "error"}
STATES = {
    INGEST: [("PENDING", "PROCESSING", "QUEUED_FOR_VEC"), ("QUEUED_FOR_VEC", "VECTORIZING", "COMPLETED")],
    ANALYTICS: [("PENDING", "PROCESSING", "COMPLETED")],
    SCORING: [("pending", "processing", "completed")],
    PLAIN: [("pending", "processing", "completed")],
}


def new_job(psql: Psql, table: str) -> UUID:
    """Enqueue one job of ``table``, with the rows that it needs."""
    match table:
        case "operations.ingest_jobs":
            sql = """INSERT INTO operations.ingest_jobs ("projectId", type) SELECT id, 'TASK' FROM p RETURNING id"""
        case "operations.analytics_jobs":
            sql = """INSERT INTO operations.analytics_jobs ("projectId") SELECT id FROM p RETURNING id"""
        case "scoring.scoring_jobs":
            sql = "INSERT INTO scoring.scoring_jobs (profile_id, prompt) SELECT id, 'Judge.' FROM p RETURNING id"
        case _:
            sql = f"INSERT INTO {table} DEFAULT VALUES RETURNING id"
    needs = {
        SCORING: "WITH p AS (INSERT INTO scoring.profiles (name) VALUES ('Ada') RETURNING id) ",
        PLAIN: "",
    }.get(table, f"WITH p AS (INSERT INTO operations.projects (name) VALUES ('{uuid4()}') RETURNING id) ")
    row = psql.execute(f"{needs}{sql}".encode()).fetchone()
    assert row is not None
    return UUID(str(row["id"]))


def start(psql: Psql, table: str, job: UUID, *, step: int = 0, lease_owner: UUID | None = None) -> None:
    """Bring a job into the running state of its ``step``, through the steps before it."""
    for number, (_, running, done) in enumerate(STATES[table][: step + 1]):
        psql.execute(f"UPDATE {table} SET dispatched_at = now() WHERE id = %s".encode(), [job])
        psql.execute(
            f"""UPDATE {table} SET status = %s, version = version + 1, lease_owner = %s, started_at = now(),
                       deadline_at = now() + interval '2 minutes', change_action = 'claim', change_reason = NULL
                 WHERE id = %s""".encode(),
            [running, lease_owner or uuid4(), job],
        )
        if number < step:
            _leave(psql, table, job, done, "complete")


def fail(psql: Psql, table: str, job: UUID, error: str) -> None:
    """Make a running job fail."""
    _end(psql, table, job, ("FAILED" if table in ERROR else "failed", "fail"), error)


def cancelled(psql: Psql, table: str, job: UUID) -> None:
    """Cancel a job that has not ended."""
    _end(psql, table, job, ("CANCELLED" if table in ERROR else "cancelled", "cancel"), "by hand")


def complete(psql: Psql, table: str, job: UUID) -> None:
    """Make a running job complete."""
    _end(psql, table, job, (STATES[table][-1][2], "complete"), None)


def back_off(psql: Psql, table: str, job: UUID, reason: str, *, action: str = "retry", due: str = "1 hour") -> None:
    """Send a running job of one step back to its ready state."""
    psql.execute(
        f"""UPDATE {table} SET status = %s, version = version + 1, retry_count = retry_count + %s, lease_owner = NULL,
                   started_at = NULL, dispatched_at = NULL, deadline_at = NULL, due_at = now() + %s::interval,
                   {ERROR.get(table, "error_message")} = %s, change_action = %s, change_reason = %s
             WHERE id = %s""".encode(),
        [STATES[table][0][0], int(action == "retry"), due, reason, action, reason, job],
    )


def failed_job(psql: Psql, table: str, error: str, *, step: int = 0) -> UUID:
    """Return a job that failed in its ``step``."""
    job = new_job(psql, table)
    start(psql, table, job, step=step)
    fail(psql, table, job, error)
    return job


def _leave(psql: Psql, table: str, job: UUID, state: str, action: str) -> None:
    psql.execute(
        f"""UPDATE {table} SET status = %s, version = version + 1, lease_owner = NULL, started_at = NULL,
                   dispatched_at = NULL, deadline_at = NULL, change_action = %s, change_reason = NULL
             WHERE id = %s""".encode(),
        [state, action, job],
    )


def _end(psql: Psql, table: str, job: UUID, end: tuple[str, str], error: str | None) -> None:
    state, action = end
    psql.execute(
        f"""UPDATE {table} SET status = %s, version = version + 1, completed_at = now(), dispatched_at = NULL,
                   deadline_at = NULL, {ERROR.get(table, "error_message")} = %s, change_action = %s, change_reason = %s
             WHERE id = %s""".encode(),
        [state, error, action, error, job],
    )
