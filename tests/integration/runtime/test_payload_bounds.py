"""The limits of payloads are the same at every door and in every table; older rows that break them do no harm."""

import json
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row

import tests.support.proving.assessors  # noqa: F401 - importing registers the no-op assessor
from gristmill_testing.waiting import until
from tests.conftest import migrate
from tests.support.fakes.mill import asking_mill
from workers.runtime.bounds import MAX_JSON_DEPTH, MAX_PAYLOAD_BYTES, payload_problem
from workers.runtime.database import Database
from workers.runtime.enqueue import EnqueueError, enqueue

ASSESS = "assessment.assess"
# The request to the proving assessor.
NOTHING = {"serverName": "s", "assessmentType": "noop"}


def nested(depth: int) -> str:
    """Return JSON with objects nested ``depth`` deep, including the outermost."""
    return '{"a":' * (depth - 1) + "{}" + "}" * (depth - 1)


DEEP, SIZE, NUMBERS = "nested_at_most_64_deep", "at_most_8_mib", "numbers_within_1e308"
TOO_MUCH = {
    nested(65): DEEP,
    nested(5_000): DEEP,
    '{"n": 1.1e308}': NUMBERS,
    '{"n": [-1e5000]}': NUMBERS,
    json.dumps({"s": "x" * 9_000_000}): SIZE,
}
INSERTS = {
    "request": "INSERT INTO assessments.assessment_states (assessment_id, request_data) VALUES ('a', %s)",
    "attributes": "INSERT INTO scoring.profiles (name, attributes) VALUES ('p', %s)",
    "schedule": """
        INSERT INTO runtime.schedules (name, stage, payload, cron) VALUES ('s', 'scoring.score', %s, '* * * * *')""",
    "mapping": """
        WITH p AS (INSERT INTO operations.projects (name) VALUES ('p') RETURNING id)
        INSERT INTO operations.ingest_jobs ("projectId", type, mapping) SELECT id, 'TASK', %s FROM p""",
    "function": "SELECT assessments.create_assessment('a', %s)",
}


@pytest.mark.parametrize("door", INSERTS)
def test_every_table_refuses_what_no_reader_can_have(psql, door):
    """The error of Postgres has the name of the rule."""
    for document, rule in TOO_MUCH.items():
        with pytest.raises(psycopg.errors.CheckViolation, match=rule):
            psql.execute(INSERTS[door], [document])


@pytest.mark.parametrize("door", INSERTS)
@pytest.mark.parametrize("document", [nested(64), '{"n": 1e308, "m": -1e308}', json.dumps({"s": "x" * 1_000_000})])
def test_what_is_just_within_the_bounds_is_taken(psql, door, document):
    """The value is read again unchanged."""
    if door == "schedule":
        document = document[:200_000] + document[-2:] if len(document) > 200_000 else document  # 256 KiB for schedules
    psql.execute(INSERTS[door], [document])


def test_a_result_and_a_record_are_bounded_too(psql):
    """Their depth and size are limited too, because functions of services write them."""
    for statement in (
        "INSERT INTO assessments.assessment_states (assessment_id, request_data, result_data) VALUES ('a', '{}', %s)",
        """WITH p AS (INSERT INTO operations.projects (name) VALUES ('p') RETURNING id)
           INSERT INTO operations.data_records ("projectId", type, source, content, metadata)
           SELECT id, 'TASK', 's', 'c', %s FROM p""",
    ):
        with pytest.raises(psycopg.errors.CheckViolation, match=DEEP):
            psql.execute(statement, [nested(65)])


DOMAINS = [("runtime.payload", 9), ("runtime.document", 33), ("runtime.payload_text", 2)]


@pytest.mark.parametrize(("domain", "mebibytes"), DOMAINS)
def test_a_value_is_measured_as_it_is_and_not_as_it_was_compressed(psql, domain, mebibytes):
    """A repeated character takes a hundredth of its size on the disk; its full size counts."""
    psql.execute("CREATE TEMP TABLE large (text text, object jsonb, list jsonb)")
    psql.execute(
        """INSERT INTO large SELECT x, jsonb_build_object('s', x), jsonb_build_array(x)
             FROM repeat('x', %s * 1048576) AS x""",
        [mebibytes],
    )

    for column in ("text",) if domain.endswith("_text") else ("object", "list"):
        row = psql.execute(f"SELECT pg_column_size({column}) < 1048576 AS packed FROM large").fetchone()
        assert row == {"packed": True}
        with pytest.raises(psycopg.errors.CheckViolation, match="at_most_"):
            psql.execute(f"SELECT {column}::{domain} FROM large")


def test_every_domain_with_a_size_is_tried(psql):
    """A new domain needs its own test."""
    found = psql.execute(
        "SELECT DISTINCT contypid::regtype::text AS name FROM pg_constraint "
        "WHERE contypid <> 0 AND conname ~ 'at_most_.*ib'"
    ).fetchall()

    assert {row["name"] for row in found} == {name for name, _ in DOMAINS}


def test_a_prompt_has_at_most_a_mebibyte(psql):
    """This holds for any characters."""
    insert = """
        WITH p AS (INSERT INTO scoring.profiles (name) VALUES ('p') RETURNING id)
        INSERT INTO scoring.scoring_jobs (profile_id, prompt) SELECT id, %s FROM p"""

    psql.execute(insert, ["é" * (MAX_PAYLOAD_BYTES // 2)])

    with pytest.raises(psycopg.errors.CheckViolation, match="at_most_1_mib"):
        psql.execute(insert, ["é" * (MAX_PAYLOAD_BYTES // 2) + "x"])


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**305, max_value=10**312)
    | st.floats()
    | st.text(st.characters(codec=None), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


def same(kept: Any, given_: Any) -> bool:
    """Tell whether the same JSON was read back; a large float may come back as an integer."""
    if isinstance(given_, dict):
        return kept.keys() == given_.keys() and all(same(kept[name], value) for name, value in given_.items())
    if isinstance(given_, list):
        return len(kept) == len(given_) and all(map(same, kept, given_))
    return float(kept) == given_ if isinstance(given_, float) else kept == given_


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(payload=st.dictionaries(st.text(min_size=1, max_size=8), JSON, max_size=4))
def test_what_passes_the_door_passes_the_table_and_comes_back(psql, payload):
    """Python and SQL have the same rule."""
    if payload_problem(payload) is not None:
        return

    row = psql.execute("SELECT %s::jsonb::runtime.payload AS kept", [json.dumps(payload, allow_nan=False)]).fetchone()

    assert row is not None
    assert same(row["kept"], payload)
    assert payload_problem(row["kept"]) is None


def cyclic() -> dict[str, Any]:
    whole: dict[str, Any] = {}
    whole["self"] = whole
    return whole


def doubled() -> list[Any]:
    """Return a list that would have 2⁶⁰ elements as JSON."""
    inner: list[Any] = []
    for _ in range(60):
        inner = [inner, inner]
    return inner


WORDS = {
    "lone surrogate": ({"x": "a\ud800"}, r"request_data.x must be valid Unicode, .*, got 'a\\ud800'"),
    "lone surrogate in a name": ({"\udfff": 1}, r"request_data has a name that must be valid Unicode, .*"),
    "NUL": ({"x": ["a\x00"]}, r"request_data.x.0 must not contain a NUL character, .*, got 'a\\x00'"),
    "deep": (json.loads(nested(900)), f"request_data must be nested at most {MAX_JSON_DEPTH} deep, got more"),
    "bytes": ({"x": {"y": b"\xff"}}, r"request_data.x.y must be text, not bytes, got b'\\xff'"),
    "NaN": ({"score": float("nan")}, "request_data.score must be a finite number, got nan"),
    "infinity": ({"scores": [1.0, float("-inf")]}, "request_data.scores.1 must be a finite number, got -inf"),
    "digits": ({"n": 10**5000}, "request_data.n must be a number within ±1e308, got one of more than 308 digits"),
    "large": ({"x": "x" * 2_000_000}, "payload must have at most 1,048,576 bytes, got more"),
    "many": ({"x": [1] * 600_000}, "payload must have at most 1,048,576 bytes, got more"),
    "cyclic": (cyclic(), "request_data must be nested at most 64 deep, got more"),
    "doubled": ({"x": doubled()}, "payload must have at most 1,048,576 bytes, got more"),
}


@pytest.mark.parametrize("kind", WORDS)
async def test_the_door_names_field_rule_and_value(database, kind):
    """The error is one line, and nothing is enqueued."""
    request, said = WORDS[kind]
    async with database.session() as session:
        with pytest.raises(EnqueueError, match=f"^{said}$"):
            await enqueue(session, ASSESS, {"assessment_id": "a", "request_data": request})


async def test_an_assessment_that_exists_is_named(database):
    """The error names the assessment, not an index."""
    payload = {"assessment_id": "a-1", "request_data": NOTHING}
    async with database.session() as session:
        await enqueue(session, ASSESS, payload)

    async with database.session() as session:
        with pytest.raises(EnqueueError, match=r"^assessment_id must be new: a job has it already, got 'a-1'$"):
            await enqueue(session, ASSESS, payload)


TIMES = {
    "9999-12-31T23:59:31-14:00": "due_at must be before the year 10000, got '9999-12-31T23:59:31-14:00'",
    "0001-01-01T00:00:00+14:00": "due_at must not be before the year 1, got '0001-01-01T00:00:00\\+14:00'",
    "infinity": "due_at must be a valid datetime.*, got 'infinity'",
    "10000-01-01T00:00:00Z": "due_at must be a valid datetime.*",
}


@pytest.mark.parametrize("time", TIMES)
async def test_a_time_that_no_clock_shows_is_refused(database, time):
    """Postgres would accept it, but no list could show the job."""
    async with database.session() as session:
        with pytest.raises(EnqueueError, match=f"^{TIMES[time]}$"):
            await enqueue(session, "proving.plain", {}, due_at=time)


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ('{"act": "complete", "seconds": NaN}', "NaN is not a JSON number"),
        ('{"key": "\\ud800"}', "key must be valid Unicode"),
        ('{"seconds": 1' + "0" * 5_000 + "}", "payload has a number with too many digits"),
        ("[" * 100_000, "payload is nested too deeply"),
    ],
)
def test_the_command_line_says_it_as_well(gristmill, payload, said):
    """The error is one line without a traceback."""
    code, _, complaint = gristmill("enqueue", "proving.plain", "--payload", payload)

    assert code in {1, 2}
    assert said in complaint
    assert "\n" not in complaint


OLD = {
    "request_data cannot be read: its JSON has a number of more than 4,300 digits": """
        INSERT INTO assessments.assessment_states (assessment_id, request_data)
        VALUES ('old', ('{"n": 1' || repeat('0', 5000) || '}')::jsonb)""",
    "mapping cannot be read: its JSON is nested too deeply": """
        WITH p AS (INSERT INTO operations.projects (name) VALUES ('p') RETURNING id)
        INSERT INTO operations.ingest_jobs ("projectId", type, mapping)
        SELECT id, 'TASK', ('{"a":' || repeat('[', 5000) || repeat(']', 5000) || '}')::jsonb FROM p""",
    "a value cannot be read: its JSON is nested too deeply": """
        WITH p AS (INSERT INTO scoring.profiles (name, attributes)
                   VALUES ('p', ('{"a":' || repeat('[', 5000) || repeat(']', 5000) || '}')::jsonb) RETURNING id)
        INSERT INTO scoring.scoring_jobs (profile_id, prompt) SELECT id, 'Judge.' FROM p""",
}


async def test_rows_from_before_the_rules_fail_alone(empty_database_url, registry):
    """They are dispatched, claimed and failed like others, each with its reason; the rules allow them to exist."""
    migrate(empty_database_url, to="0004")
    with psycopg.connect(empty_database_url, autocommit=True, row_factory=dict_row) as old:
        for statement in OLD.values():
            old.execute(statement.encode())
    migrate(empty_database_url)
    database = Database(empty_database_url, changed_by="test")
    try:
        async with database.session() as session:
            healthy = await enqueue(session, ASSESS, {"assessment_id": "new", "request_data": NOTHING})

        async def ended() -> dict[Any, Any]:
            async with database.kernel() as conn:
                rows = await (
                    await conn.execute("SELECT id, error_message FROM runtime.jobs WHERE completed_at IS NOT NULL")
                ).fetchall()
            return dict(rows)

        async def all_ended() -> bool:
            return len(await ended()) == len(OLD) + 1

        async with asking_mill(empty_database_url, registry, provider_url=None):
            await until(all_ended, within=30)

        errors = await ended()
        del errors[healthy.id]
        assert set(errors.values()) == set(OLD)
    finally:
        await database.close()
