"""The SQL door ``runtime.enqueue``: any open stage, the words of the other doors, in the caller's own transaction."""

import json
import uuid
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.support.kernel import PLAIN, Jobs
from workers.runtime.enqueue import EnqueueError
from workers.runtime.enqueue_validation import validate_jobs
from workers.runtime.handler.registry import Registry

ONE = "SELECT runtime.enqueue(%s, %s) AS id"
MANY = "SELECT ordinal, id, created FROM runtime.enqueue_many(%s, %s) ORDER BY ordinal"
# A refusal's SQLSTATE: a value, a key, a stage, whose it is.
INVALID, TAKEN, NOT_OPEN, NOT_YOURS = "MI001", "MI002", "MI003", "MI004"


def refusal(psql, stage, job):
    """Return the SQLSTATE, the line and the parts of a refusal."""
    with pytest.raises(psycopg.Error) as caught, psql.transaction():
        psql.execute(MANY, [stage, Jsonb([job])])
    error = caught.value
    assert error.diag.message_primary is not None
    assert "\n" not in error.diag.message_primary
    return error.sqlstate, error.diag.message_primary, json.loads(error.diag.message_detail or "null")


@pytest.fixture
def profile(psql):
    return psql.execute("INSERT INTO scoring.profiles (name) VALUES ('Ada') RETURNING id").fetchone()["id"]


def test_the_database_knows_the_doors_that_the_registry_declares(psql, registry: Registry):
    """A revision that opens a stage writes what its payload's model says; this fails if one of both changes alone."""
    found = psql.execute("SELECT name, sql_door FROM runtime.stages WHERE sql_door IS NOT NULL").fetchall()

    declared = {name: stage.sql_door for name, stage in registry.items() if stage.sql is not None}
    assert {row["name"]: row["sql_door"] for row in found} == declared


async def test_a_job_has_the_defaults_of_its_stage(jobs: Jobs, psql, profile):
    """What is not given is as at the Python door."""
    payload = {"profile_id": str(profile), "prompt": "Judge."}

    job = psql.execute(ONE, ["scoring.score", Jsonb(payload)]).fetchone()["id"]

    row = await jobs.row(job, "scoring.score")
    assert (row["status"], row["version"], row["priority"], row["model_name"]) == ("pending", 1, 5, "gpt-3.5-turbo")
    assert (row["due_at"], row["idempotency_key"]) == (None, None)
    assert await jobs.actions(job) == ["enqueue"]


async def test_every_option_is_kept(jobs: Jobs, psql):
    """By name, with the types of Postgres. A time keeps its moment whatever the session's zone is."""
    psql.execute("SET timezone = 'Asia/Tokyo'")
    call = """SELECT runtime.enqueue(%s, '{"act": "fail"}', p_idempotency_key => 'k', p_priority => 2,
                                     p_due_at => '2999-01-01 00:00+00') AS id"""

    job = psql.execute(call, [PLAIN]).fetchone()["id"]
    [late] = psql.execute(MANY, [PLAIN, Jsonb([{"payload": {}, "due_at": "2999-01-01T00:00:00"}])]).fetchall()

    row = await jobs.row(job)
    assert (row["act"], row["priority"], row["idempotency_key"]) == ("fail", 2, "k")
    assert row["due_at"].isoformat() == "2999-01-01T00:00:00+00:00"
    assert (await jobs.row(late["id"]))["due_at"] == row["due_at"]


async def test_many_jobs_come_back_in_their_order(jobs: Jobs, psql):
    """Keyed, unkeyed and repeated ones; a key that is repeated within the call is one job."""
    keys = ["c", None, "a", None, "b", "a", None]
    first = psql.execute(MANY, [PLAIN, Jsonb([{"payload": {"seconds": 2}, "idempotency_key": "a"}])]).fetchone()
    seconds = [2 if key == "a" else n for n, key in enumerate(keys)]
    asked = [{"payload": {"seconds": one}, "idempotency_key": key} for one, key in zip(seconds, keys, strict=True)]

    done = psql.execute(MANY, [PLAIN, Jsonb(asked)]).fetchall()

    assert [row["ordinal"] for row in done] == list(range(7))
    assert [row["created"] for row in done] == [True, True, False, True, True, False, True]
    assert done[2]["id"] == done[5]["id"] == first["id"]
    assert [(await jobs.row(row["id"]))["seconds"] for row in done] == seconds


async def test_nothing_is_made_of_nothing(jobs: Jobs, psql):
    assert psql.execute(MANY, [PLAIN, Jsonb([])]).fetchall() == []


SCORE = {"profile_id": str(uuid.UUID(int=1)), "prompt": "Judge."}
ALIGN = {"project_id": str(uuid.UUID(int=1))}
# What both doors refuse, in the same words.
SAME = [
    ("scoring.score", {}, {}),
    ("scoring.score", {"profile_id": SCORE["profile_id"]}, {}),
    ("scoring.score", {**SCORE, "colour": "red"}, {}),
    ("scoring.score", {**SCORE, "prompt": 5}, {}),
    ("scoring.score", {**SCORE, "prompt": None}, {}),
    ("scoring.score", {**SCORE, "prompt": "x" * 20_001}, {}),
    ("scoring.score", {**SCORE, "model_name": "m" * 51}, {}),
    ("analytics.align", {**ALIGN, "type": "OTHER"}, {}),
    ("analytics.align", {**ALIGN, "type": 7}, {}),
    ("assessment.assess", {"assessment_id": "a", "request_data": []}, {}),
    ("proving.plain", {}, {"priority": 0}),
    ("proving.plain", {}, {"priority": 11}),
    ("proving.plain", {}, {"idempotency_key": " k"}),
    ("proving.plain", {}, {"idempotency_key": "k" * 256}),
    ("proving.plain", {}, {"within": "24h"}),
    ("proving.plain", {}, {"lane": "batch", "within": 5}),
    ("proving.plain", {}, {"lane": "fast"}),
    ("proving.plain", {}, {"on_failed": "twice"}),
]


@pytest.mark.parametrize(("stage", "payload", "options"), SAME)
def test_what_both_doors_refuse_they_refuse_in_the_same_words(psql, registry: Registry, stage, payload, options):
    """Field, rule and value."""
    with pytest.raises(EnqueueError) as caught:
        validate_jobs(registry[stage], [{**payload, **options}])

    state, line, parts = refusal(psql, stage, {"payload": payload, **options})

    problem = caught.value.problem
    assert problem is not None
    assert (state, line, parts["field"], parts["rule"]) == (INVALID, str(problem), problem.field, problem.rule)


@pytest.mark.parametrize(
    ("job", "line"),
    [
        (5, "job must be an object, got 5"),
        ({}, "payload must be an object, got nothing"),
        ({"payload": []}, "payload must be an object, got []"),
        ({"payload": {}, "colour": "red"}, "colour is not an option, got 'red'"),
        ({"payload": {}, "due_at": "tomorrow"}, "due_at must be a valid datetime, got 'tomorrow'"),
        ({"payload": {}, "due_at": "infinity"}, "due_at must be a valid datetime, got 'infinity'"),
        ({"payload": {}, "due_at": "99999-01-01"}, "due_at must be before the year 10000, got '99999-01-01'"),
        ({"payload": {"key": "k" * 1_048_576}}, "payload must have at most 1,048,576 bytes, got more"),
        ({"payload": {"act": "a" * 21}}, "payload cannot be stored: value too long for type character varying(20)"),
        ({"payload": {"seconds": True}}, "seconds must be a valid number, got True"),
        (
            {"payload": {}, "callback_url": "ftp://user:secret@x"},
            (
                "callback_url must be a web address that begins with https:// or http:// and has no spaces, "
                "got another value"
            ),
        ),
        (
            {"payload": {}, "callback_url": f"https://{'x' * 2048}"},
            "callback_url must have at most 2048 characters, got another value",
        ),
        ({"payload": {}, "callback_url": ["secret"]}, "callback_url must be a valid string, got another value"),
        (
            {"payload": {}, "traceparent": f"00-{'0' * 32}-{'a' * 16}-01"},
            (
                "traceparent must be a W3C trace context like 00-<32 hex digits>-<16 hex digits>-01, "
                f"got '00-{'0' * 32}-{'a' * 16}-01'"
            ),
        ),
    ],
)
def test_other_input_is_refused_in_one_line(psql, job, line):
    """No traceback, no statement, and the transaction goes on after a savepoint."""
    state, said, _ = refusal(psql, PLAIN, job)

    assert (state, said) == (INVALID, line)


def test_the_line_names_the_place_of_the_job(psql):
    """As at the Python door: from 0, and only if it is not the first."""
    with pytest.raises(psycopg.Error, match=r"^job 2: act must be a valid string, got 5") as caught:
        psql.execute(MANY, [PLAIN, Jsonb([{"payload": {}}, {"payload": {}}, {"payload": {"act": 5}}])])

    assert json.loads(caught.value.diag.message_detail or "")["position"] == 2


def test_a_document_that_is_too_deep_is_refused(psql):
    deep: dict[str, Any] = {}
    for _ in range(70):
        deep = {"in": deep}

    job = {"payload": {"assessment_id": "a", "request_data": deep}}
    state, line, _ = refusal(psql, "assessment.assess", job)

    assert (state, line) == (INVALID, "payload must be nested at most 64 deep")


@pytest.mark.parametrize("stage", ["ingestion.ingest", "llm.batch", "no.such", None])
def test_a_stage_that_is_not_open_is_refused(psql, stage):
    """The remedy lists the open ones."""
    state, line, parts = refusal(psql, stage, {"payload": {}})

    assert state == NOT_OPEN
    assert "scoring.score" in parts["remedy"]
    assert line.startswith("stage is not ")


def test_a_stage_without_a_payload_is_enqueued(psql):
    """A package may open one."""
    with psql.transaction(force_rollback=True):
        door = {"fields": [], "options": {"due_at": "due_at"}, "results": {}}
        psql.execute("UPDATE runtime.stages SET sql_door = %s WHERE name = %s", [Jsonb(door), PLAIN])

        [row] = psql.execute(MANY, [PLAIN, Jsonb([{"payload": {}, "idempotency_key": "k"}])]).fetchall()
        assert psql.execute(MANY, [PLAIN, Jsonb([{"payload": {}, "idempotency_key": "k"}])]).fetchall() == [
            {**row, "created": False}
        ]
        assert psql.execute("SELECT runtime.result(%s) AS r", [row["id"]]).fetchone() == {"r": None}


def test_a_reference_to_nothing_names_the_field(psql):
    state, line, parts = refusal(psql, "scoring.score", {"payload": SCORE})

    assert (state, parts["field"]) == (INVALID, "profile_id")
    assert line == f"profile_id must refer to an existing row of profiles, got '{SCORE['profile_id']}'"


def test_a_name_that_is_taken_is_refused(psql):
    """An assessment has a name of its own beside its key."""
    job = {"payload": {"assessment_id": "a", "request_data": {}}}
    psql.execute(MANY, ["assessment.assess", Jsonb([job])])

    state, line, _ = refusal(psql, "assessment.assess", job)

    assert (state, line) == (TAKEN, "assessment_id must be new: a job has it already")


def test_a_key_with_other_content_is_refused_naming_what_differs(psql):
    """The place, the field and the key; not the content."""
    psql.execute(MANY, [PLAIN, Jsonb([{"payload": {"key": "a"}, "idempotency_key": "k"}])])

    state, line, _ = refusal(psql, PLAIN, {"payload": {"key": "b", "act": "fail"}, "idempotency_key": "k"})

    assert (state, line) == (TAKEN, "idempotency_key is taken by a job with another act, key, got 'k'")


async def test_keys_of_both_doors_are_the_same(jobs: Jobs, psql):
    """In Unicode form NFC; a repeat at the other door returns the first job."""
    [first] = await jobs.ready(PLAIN, idempotency_key="caf\u0065\u0301")

    row = psql.execute(MANY, [PLAIN, Jsonb([{"payload": {}, "idempotency_key": "caf\u00e9"}])]).fetchone()

    assert (row["id"], row["created"]) == (first, False)


def test_a_rollback_takes_the_jobs_with_it(psql):
    with psql.transaction(force_rollback=True):
        job = psql.execute(ONE, [PLAIN, Jsonb({})]).fetchone()["id"]

    assert psql.execute("SELECT * FROM runtime.status(%s)", [job]).fetchall() == []


async def test_status_and_result_follow_a_job(jobs: Jobs, psql, start_worker):
    """The outcome is there when the job has ended, the result when it completed."""
    worker = await start_worker()
    done, failed = [psql.execute(ONE, [PLAIN, Jsonb({"act": act})]).fetchone()["id"] for act in ("result", "fail")]
    status, result = "SELECT * FROM runtime.status(%s)", "SELECT runtime.result(%s) AS result"
    before = psql.execute(status, [done]).fetchone()
    assert (before["status"], before["outcome"]) == ("pending", None)
    assert psql.execute(result, [done]).fetchone()["result"] is None

    await worker.run(await jobs.dispatched(count=0))

    one, other = psql.execute(status, [done]).fetchone(), psql.execute(status, [failed]).fetchone()
    assert (one["outcome"], one["stage"], one["error"]) == ("completed", PLAIN, None)
    assert (other["outcome"], other["error"]) == ("failed", "told to fail")
    assert psql.execute(result, [done]).fetchone()["result"] == {"result": {"attempt": 1}}
    assert psql.execute(result, [failed]).fetchone()["result"] is None
    assert psql.execute("SELECT runtime.sql_door_version() AS v").fetchone()["v"] == 1
