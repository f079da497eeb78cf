"""``gristmill jobs again``: an ended job is enqueued again as a new job, even if its table allows no more attempts."""

import socket
from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.support.command_line import Gristmill, as_json

Psql = psycopg.Connection[dict[str, Any]]


class World:
    """Jobs of several domains, ended by SQL as a worker would end them."""

    def __init__(self, psql: Psql) -> None:
        self.psql = psql

    def ask(self, sql: str, *values: Any) -> list[dict[str, Any]]:
        cursor = self.psql.execute(sql.encode(), values or None)
        return cursor.fetchall() if cursor.description else []

    def scoring(self, name: str = "Ada", priority: int = 3, prompt: str = "Judge.") -> UUID:
        (profile,) = self.ask("INSERT INTO scoring.profiles (name) VALUES (%s) RETURNING id", name)
        (job,) = self.ask(
            "INSERT INTO scoring.scoring_jobs (profile_id, prompt, model_name, priority, idempotency_key) "
            "VALUES (%s, %s, 'm-1', %s, 'mine-' || %s) RETURNING id",
            profile["id"],
            prompt,
            priority,
            name,
        )
        return UUID(str(job["id"]))

    def step(self, job: UUID, running: str, *, table: str = "scoring.scoring_jobs") -> None:
        """Dispatch and claim a job, as the kernel does."""
        self.ask(f"UPDATE {table} SET dispatched_at = now() WHERE id = %s", job)
        self.ask(
            f"UPDATE {table} SET status = %s, version = version + 1, lease_owner = uuidv7(), started_at = now() "
            "WHERE id = %s",
            running,
            job,
        )

    def end(self, job: UUID, state: str = "failed") -> UUID:
        """End a scoring job that has no attempt left."""
        with self.psql.transaction():
            self.ask("SET LOCAL session_replication_role = replica")  # five attempts later
            self.ask("UPDATE scoring.scoring_jobs SET retry_count = max_retries WHERE id = %s", job)
        self.step(job, "processing")
        self.ask(
            """UPDATE scoring.scoring_jobs
                  SET status = %s, version = version + 1, completed_at = now(), dispatched_at = NULL,
                      error_message = CASE WHEN %s = 'failed' THEN 'provider down' END WHERE id = %s""",
            state,
            state,
            job,
        )
        return job

    def job(self, job: UUID | str, table: str = "scoring.scoring_jobs") -> dict[str, Any]:
        (row,) = self.ask(f"SELECT * FROM {table} WHERE id = %s", job)
        return row

    def ingest(self, *, upload: bool = True, fails_in: str = "PROCESSING") -> UUID:
        """Return an ingestion that failed in one of its steps. Its upload is deleted after it is loaded."""
        (project,) = self.ask("INSERT INTO operations.projects (name) VALUES (uuidv7()::text) RETURNING id")
        (file,) = self.ask(
            'INSERT INTO operations.uploads ("projectId", "fileName", "sizeBytes", sha256) '
            "VALUES (%s, 'f.csv', 1, %s) RETURNING id",
            project["id"],
            b"\x00" * 32,
        )
        (job,) = self.ask(
            'INSERT INTO operations.ingest_jobs ("projectId", type, "uploadId", source) '
            "VALUES (%s, 'TASK', %s, 'csv:f.csv') RETURNING id",
            project["id"],
            file["id"],
        )
        table = "operations.ingest_jobs"
        self.step(job["id"], "PROCESSING", table=table)
        if fails_in != "PROCESSING":
            self.ask(
                f"UPDATE {table} SET status = 'QUEUED_FOR_VEC', version = version + 1, dispatched_at = NULL, "
                "lease_owner = NULL, started_at = NULL WHERE id = %s",
                job["id"],
            )
            self.step(job["id"], fails_in, table=table)
        self.ask(
            f"UPDATE {table} SET status = 'FAILED', version = version + 1, completed_at = now(), dispatched_at = NULL, "
            "error = 'down' WHERE id = %s",
            job["id"],
        )
        if not upload:
            self.ask("DELETE FROM operations.uploads WHERE id = %s", file["id"])
        return UUID(str(job["id"]))


@pytest.fixture
def world(psql: Psql) -> World:
    """The jobs of the test."""
    return World(psql)


def test_job_without_an_attempt_left_is_enqueued_again_as_a_new_one(gristmill: Gristmill, world: World) -> None:
    """Scoring allows five attempts. The new job has the payload and priority of the old one, and a link to it."""
    old = world.end(world.scoring())

    would = as_json(gristmill, "jobs", "again", str(old), "--dry-run")
    count = len(world.ask("SELECT 1 FROM scoring.scoring_jobs"))
    done = as_json(gristmill, "jobs", "again", str(old), "--reason", "the provider is back")

    assert would == {"dry_run": True, "again": [{"old": str(old), "new": None}], "refused": {}}
    assert count == 1
    ((pair,), refused) = (done["again"], done["refused"])
    assert refused == {}
    before, after = world.job(old), world.job(pair["new"])
    same = ("profile_id", "prompt", "model_name", "priority")
    assert [after[name] for name in same] == [before[name] for name in same]
    assert (after["status"], after["retry_count"], after["max_retries"], after["error_message"]) == (
        "pending",
        0,
        5,
        None,
    )
    assert before["status"] == "failed"
    (made,) = world.ask("SELECT * FROM runtime.transitions WHERE job_id = %s", pair["new"])
    assert made["change_reason"] == f"again, for job {old}: the provider is back"
    assert made["context"] == {"again_of": str(old), "host": socket.gethostname()}


def test_a_second_call_makes_no_second_job(gristmill: Gristmill, world: World) -> None:
    """It returns the job of the first call."""
    old = world.end(world.scoring())

    first, second = (as_json(gristmill, "jobs", "again", str(old)) for _ in range(2))

    assert first == second
    assert len(world.ask("SELECT 1 FROM scoring.scoring_jobs")) == 2


def test_filters_choose_failed_jobs_only_and_ids_any_that_ended(gristmill: Gristmill, world: World) -> None:
    """A completed job must be named by id. A job that has not ended is refused."""
    failed, completed = world.end(world.scoring("a")), world.end(world.scoring("b"), "completed")
    cancelled, pending = world.end(world.scoring("c"), "cancelled"), world.scoring("d")

    by_error = as_json(gristmill, "jobs", "again", "--stage", "scoring.score", "--error", "provider")
    code, out, complaint = gristmill("jobs", "again", *map(str, (completed, cancelled, pending)))

    assert [pair["old"] for pair in by_error["again"]] == [str(failed)]
    assert code == 1
    assert f"{completed} -> " in out
    assert f"{cancelled} -> " in out
    assert f"{pending} is pending, it has not ended yet" in out
    assert f"job {pending} is pending, it has not ended yet" in complaint


def test_many_are_enqueued_again_each_by_itself(gristmill: Gristmill, world: World) -> None:
    """A job with a prompt that is no longer valid is refused with the reason; the others are enqueued."""
    jobs = [world.end(world.scoring(f"p{n}")) for n in range(30)]
    bad = world.end(world.scoring("bad", prompt="Criteria:\n- : nothing"))

    done = as_json(gristmill, "jobs", "again", "--stage", "scoring.score")

    assert {pair["old"] for pair in done["again"]} == set(map(str, jobs))
    assert list(done["refused"]) == [str(bad)]
    assert "cannot be enqueued again: prompt" in done["refused"][str(bad)]


def test_ingestion_is_enqueued_again_as_long_as_its_file_is_there(gristmill: Gristmill, world: World) -> None:
    """If the file is gone, the reason says what to do. After loading, only the vectors are missing."""
    there, gone = world.ingest(), world.ingest(upload=False)
    loaded = world.ingest(upload=False, fails_in="VECTORIZING")

    done = as_json(gristmill, "jobs", "again", "--error", "down")

    new = {pair["old"]: world.job(pair["new"], "operations.ingest_jobs") for pair in done["again"]}
    assert new.keys() == {str(there), str(loaded)}
    assert new[str(there)]["uploadId"] == world.job(there, "operations.ingest_jobs")["uploadId"]
    assert (new[str(loaded)]["uploadId"], new[str(loaded)]["source"]) == (None, None)
    assert "the uploaded file no longer exists: hand it in again" in done["refused"][str(gone)]


def test_assessment_gets_another_name(gristmill: Gristmill, world: World) -> None:
    """Its name belongs to the old assessment, which services know by it."""
    options = '{"criteria": [{"name": "use", "description": "d"}], "content": "c"}'
    request = f'{{"serverName": "s", "assessmentType": "llm_rubric", "options": {options}}}'
    (old,) = world.ask(
        "INSERT INTO assessments.assessment_states (assessment_id, request_data) VALUES ('a-1', %s::jsonb) "
        "RETURNING id",
        request,
    )
    world.ask(
        "UPDATE assessments.assessment_states SET state = 'cancelled', version = 2, progress = 100, "
        "completed_at = now() WHERE id = %s",
        old["id"],
    )

    done = as_json(gristmill, "jobs", "again", str(old["id"]))

    (pair,) = done["again"]
    new = world.job(pair["new"], "assessments.assessment_states")
    assert new["assessment_id"] == f"a-1 (again, for {old['id']})"
    assert new["request_data"] == world.job(old["id"], "assessments.assessment_states")["request_data"]


def test_retry_shows_each_reason_for_a_refusal_with_its_remedy(gristmill: Gristmill, world: World) -> None:
    """The operator reads which command to run next."""
    one, two = world.end(world.scoring("a")), world.end(world.scoring("b"))
    done = world.end(world.scoring("c"), "completed")

    _, printed, remarked = gristmill("jobs", "retry", "--stage", "scoring.score")
    out = printed + remarked

    assert "2 jobs, for example" in out
    assert "`gristmill jobs again ID` enqueues it as a new job" in out
    assert f"{done} is completed, only a failed one can be retried" in out
    assert "0 retried, 3 refused" in out
    assert {str(one), str(two)} & set(out.replace(":", " ").split())


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((), "name jobs by id or by a filter"),
        (("00000000-0000-0000-0000-000000000001",), "does not exist (any more)"),
        (("--stage", "bogus.stage"), "stage 'bogus.stage' is not registered"),
    ],
)
def test_wrong_use_is_one_line(gristmill: Gristmill, arguments: tuple[str, ...], line: str) -> None:
    """Each wrong usage has its own line."""
    code, _, complaint = gristmill("jobs", "again", *arguments)

    assert code in {1, 2}
    assert line in complaint
    assert "\n" not in complaint.strip()
