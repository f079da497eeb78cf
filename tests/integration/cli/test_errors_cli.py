"""``gristmill errors`` shows errors with the command that retries the jobs; ``workers`` shows every worker process."""

import json
import shlex
from datetime import datetime
from uuid import uuid4

import pytest
from psycopg.types.json import Jsonb

from tests.support.command_line import as_json
from tests.support.job_rows import INGEST, PLAIN, SCORING, back_off, fail, failed_job, new_job, start
from workers.runtime.operate import lists
from workers.runtime.store.causes import MAX_CAUSE_CHARACTERS, cause_of

UUID_ = "0198c0de-1234-7abc-8def-0123456789ab"


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (f"job {UUID_} is gone", "job … is gone"),
        ("read 17 of 2,345 rows in 3.4 s", "read … of … rows in … s"),
        ("model 'gpt-4' said \"no\"", "model … said …"),
        ("answered 503 after 12 s", "answered 503 after … s"),
        ("at 2026-03-02T08:00:00.123Z it ended", "at … it ended"),
        ("two\nlines  here", "two…lines…here"),
        ("digest 9f86d081884c7d659a2feaa0c55ad015", "digest …"),
        ("request req_9f3a2b1c8d failed", "request … failed"),
        ("1, 2, 3, 4", "…"),
        ("", ""),
        (None, ""),
        ("deadline passed", "deadline passed"),
    ],
)
def test_a_cause_is_an_error_without_what_differs(error, cause):
    """Ids, numbers, times and quoted texts differ from job to job; a status of HTTP does not."""
    assert cause_of(error) == cause


def test_a_long_error_is_cut_and_found_all_the_same():
    """It fits into a command line. The ellipsis at its end matches the rest."""
    cause = cause_of("word " * 200)

    assert len(cause) <= MAX_CAUSE_CHARACTERS
    assert cause.endswith("…")


def test_causes_are_counted_by_stage_with_a_sample_and_the_command_that_retries_them(gristmill, psql):
    """The printed command retries exactly the jobs with this error."""
    refused = [str(failed_job(psql, PLAIN, f"model 'm{n}' answered 500 to {uuid4()}")) for n in range(3)]
    other = str(failed_job(psql, PLAIN, '100% wrong_text: it\'s "bad"'))
    loading = str(failed_job(psql, INGEST, "model 'x' answered 500 to it"))
    waits = new_job(psql, PLAIN)
    start(psql, PLAIN, waits)
    back_off(psql, PLAIN, waits, f"model 'q' answered 500 to {uuid4()}")

    found = as_json(gristmill, "errors")
    top, *rest = found["errors"]

    assert (top["stage"], top["cause"]) == ("proving.plain", "model … answered 500 to …")
    assert (top["failed"], top["backing_off"], top["sample_id"] in refused) == (3, 1, True)
    assert datetime.fromisoformat(top["first_at"]) <= datetime.fromisoformat(top["last_at"])
    assert {one["sample_id"] for one in rest} == {other, loading}
    assert (found["others"], found["partial"]) == (0, [])

    for one in found["errors"]:
        words = shlex.split(one["retry_command"])
        assert words[:3] == ["gristmill", "jobs", "retry"]
        would = as_json(gristmill, *words[1:], "--dry-run")
        assert len(would["retried"]) == one["failed"]
        assert one["sample_id"] in would["retried"]
        assert would["refused"] == {}
    done = as_json(gristmill, *shlex.split(top["retry_command"])[1:])
    assert set(done["retried"]) == set(refused)


def test_errors_are_printed_as_blocks(gristmill, psql):
    """Each block has the command to type. The stage is a filter; an unknown stage is refused."""
    job = failed_job(psql, SCORING, "refused the key (401)\x1b[31m")

    code, output, _ = gristmill("errors")

    assert code == 0
    assert output.startswith("scoring.score: 1 failed\n  refused the key (401)")
    assert f"show:  gristmill jobs show {job}" in output
    assert 'retry: gristmill jobs retry --stage scoring.score --status failed --error "' in output
    assert "\x1b" not in output
    assert as_json(gristmill, "errors", "--stage", "proving.plain")["errors"] == []
    assert gristmill("errors", "--stage", "scoring.scor")[0] == 2


def test_a_job_that_only_backs_off_has_no_command(gristmill, psql):
    """It runs again by itself."""
    job = new_job(psql, PLAIN)
    start(psql, PLAIN, job)
    back_off(psql, PLAIN, job, "answered 503")

    [cause] = as_json(gristmill, "errors")["errors"]

    assert (cause["failed"], cause["backing_off"], cause["retry_command"]) == (0, 1, None)


def test_the_limit_is_the_number_of_errors_that_are_shown(gristmill, psql):
    """The number of other errors is shown too."""
    for word in ("one", "two", "three"):
        failed_job(psql, PLAIN, f"{word} thing")

    found = as_json(gristmill, "errors", "--limit", "2")

    assert (len(found["errors"]), found["others"]) == (2, 1)


def test_an_ellipsis_in_an_error_filter_matches_anything(gristmill, psql):
    """``jobs list`` and ``jobs retry`` have the same filter. Percent and underscore match only themselves."""
    hit = str(failed_job(psql, PLAIN, "row 7 of file 'a' is 100% bad"))
    failed_job(psql, PLAIN, "row 7 of file 'a' is 100 bad")

    assert [job["id"] for job in as_json(gristmill, "jobs", "list", "--error", "ROW … is 100% b")] == [hit]
    assert as_json(gristmill, "jobs", "list", "--error", "r_w") == []


def test_workers_are_shown_with_what_they_run_with(gristmill, psql):
    """Live, draining and silent workers are shown."""
    insert = """INSERT INTO runtime.workers (id, name, queues, slots, running, lease_seconds, version, provider,
                                             heartbeat_at, draining_at)
                VALUES (gen_random_uuid(), %s, %s, 8, 3, 30, %s, %s, now() - %s::interval, %s)"""
    provider = Jsonb({"provider": "openrouter", "url": "https://openrouter.ai/api/v1", "model": "v/m"})
    psql.execute(insert, ["a", ["scoring", "ingestion"], "1.2.3", provider, "1 second", None])
    psql.execute(insert, ["b", ["scoring"], None, None, "1 second", datetime.now().astimezone()])
    psql.execute(insert, ["c", ["scoring"], "1.2.3", None, "1 hour", None])

    found = as_json(gristmill, "workers")
    _, output, _ = gristmill("workers")

    assert [(one["name"], one["state"]) for one in found] == [("a", "running"), ("b", "draining"), ("c", "silent")]
    first = found[0]
    assert (first["slots"], first["running"], first["lease_seconds"], first["version"]) == (8, 3, 30.0, "1.2.3")
    assert (first["queues"], first["provider"]["provider"]) == (["scoring", "ingestion"], "openrouter")
    assert 1 <= first["silent_for_seconds"] < 30
    assert "openrouter https://openrouter.ai/api/v1 v/m" in output
    assert "draining" in output


def test_without_a_worker_the_command_says_how_to_start_one(gristmill):
    """Standard output is empty."""
    assert gristmill("workers") == (
        0,
        "",
        "no worker has registered; start one: `gristmill up`, or `gristmill worker`",
    )
    assert json.loads(gristmill("workers", "--json")[1]) == []


def test_a_job_that_failed_says_how_to_retry_it(gristmill, psql):
    """The line has the error, the number of attempts and the time."""
    job = new_job(psql, PLAIN)
    start(psql, PLAIN, job)
    back_off(psql, PLAIN, job, "first", due="-1 second")
    start(psql, PLAIN, job)
    fail(psql, PLAIN, job, "second")

    told = as_json(gristmill, "jobs", "why", str(job))

    assert told["summary"] == "failed after 2 attempts: second"
    assert told["remedy"] == f"gristmill jobs retry {job}"
    assert gristmill("jobs", "why", str(job))[1].startswith("failed after 2 attempts: second (since ")


def test_a_running_job_says_where_and_until_when(gristmill, psql):
    """The line names its worker, and says whether that worker still sends heartbeats."""
    owner = uuid4()
    psql.execute(
        """INSERT INTO runtime.workers (id, name, queues, slots, lease_seconds)
           VALUES (%s, 'worker@box.7', '{proving}', 1, 30)""",
        [owner],
    )
    job = new_job(psql, PLAIN)
    start(psql, PLAIN, job, lease_owner=owner)

    told = as_json(gristmill, "jobs", "why", str(job))
    _, line, _ = gristmill("jobs", "why", str(job))

    assert (told["worker"], told["status"]) == ("worker@box.7", "processing")
    assert told["since"] < told["lease_until"] < told["deadline_at"]
    assert line.startswith("processing: running on worker@box.7: attempt 1 of 6, 0 % (since ")
    assert ", until " in line
    assert ", lease " in line

    psql.execute("UPDATE runtime.workers SET heartbeat_at = now() - interval '1 hour'")
    assert "its worker gives no sign of life" in as_json(gristmill, "jobs", "why", str(job))["summary"]
    psql.execute("DELETE FROM runtime.workers")
    assert "its worker is gone" in as_json(gristmill, "jobs", "why", str(job))["summary"]


@pytest.mark.parametrize(
    ("arrange", "summary", "remedy"),
    [
        (
            "UPDATE runtime.stages SET paused_at = now(), paused_by = 'ada'",
            "paused by ada",
            "stages resume proving.plain",
        ),
        ("SELECT 1", "no worker for queue proving", "gristmill worker --queues proving"),
        (
            """INSERT INTO runtime.workers (id, name, queues, slots, lease_seconds)
               VALUES (gen_random_uuid(), 'w', '{proving}', 1, 60)""",
            "ready, waiting for the dispatcher, and no dispatcher leads",
            "gristmill dispatcher",
        ),
        ("UPDATE proving.plain_jobs SET due_at = '2030-01-01'", "due later", None),
    ],
)
def test_a_waiting_job_says_for_what_and_what_to_do(gristmill, psql, arrange, summary, remedy):
    """Each reason has its own remedy."""
    job = new_job(psql, PLAIN)
    psql.execute(arrange.encode())

    told = as_json(gristmill, "jobs", "why", str(job))

    assert told["summary"] == summary
    assert (told["remedy"] is None) if remedy is None else (remedy in told["remedy"])


def test_a_completed_job_says_when(gristmill, psql):
    """There is no remedy."""
    job = new_job(psql, PLAIN)
    start(psql, PLAIN, job)
    psql.execute("UPDATE proving.plain_jobs SET status = 'completed', version = version + 1, completed_at = now()")

    told = as_json(gristmill, "jobs", "why", str(job))

    assert (told["summary"], told["remedy"], told["since"] is not None) == ("completed", None, True)


def test_a_list_says_what_it_leaves_out(gristmill, psql, monkeypatch):
    """A job of a package that is not installed here is not hidden in silence."""
    psql.execute("INSERT INTO proving.plain_jobs DEFAULT VALUES")
    known = [table for table in lists._tables() if not table.label.startswith("proving.")]
    monkeypatch.setattr(lists, "_tables", lambda: known)

    code, output, said = gristmill("jobs", "list")

    assert (code, output) == (0, "")
    assert "proving.plain_jobs" in said
    assert "are left out: this release does not know the table" in said
    assert "no jobs match" in said
