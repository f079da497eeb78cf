"""An unreadable assessment does not affect the others in a list, a report, a history or an import."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import as_json
from workers.assessment.store import cache, states
from workers.assessment.store.history import audit_trail
from workers.assessment.store.imports import import_assessments
from workers.assessment.store.refusals import InvalidChange
from workers.assessment.store.reports import statistics
from workers.assessment.store.sources import rows_of_file, rows_of_table
from workers.runtime.actor import Actor, InvalidActor

DEEP = "repeat('[', 5000) || repeat(']', 5000)"
# Documents as SQL that the table's CHECKs accept, written without the functions.
DOCUMENTS = {
    "list": "'[0.8, 0.9]'",
    "null": "'null'",
    "number": "'7'",
    "text": "'\"x\"'",
    "digits": "('{\"n\": ' || repeat('9', 5000) || '}')",
    "exponent": "'{\"n\": 1e5000}'",
    "infinite": "('{\"n\": ' || repeat('1', 310) || '.5}')",
    "deep": f"('{{\"n\": ' || {DEEP} || '}}')",
    "long": "('{\"n\": \"' || repeat('x', 17000000) || '\"}')",
}
UNREADABLE = {"digits", "exponent", "infinite", "deep", "long"}


@pytest.fixture
def gristmill(gristmill):
    """Run a command of ``gristmill assessments``."""
    return partial(gristmill, "assessments")


# The CHECKs of the types of its columns. Rows may be older than these rules.
RULES = """
    SELECT d.oid::regtype::text AS domain, quote_ident(c.conname) AS name, pg_get_constraintdef(c.oid) AS rule
      FROM pg_attribute AS a JOIN pg_type AS d ON d.oid = a.atttypid JOIN pg_constraint AS c ON c.contypid = d.oid
     WHERE a.attrelid = 'assessments.assessment_states'::regclass AND c.contype = 'c'
"""


@pytest.fixture
def older_than_the_rules(psql):
    """Remove the rules, so that documents older than the rules can be written."""
    rules = psql.execute(RULES).fetchall()
    for rule in rules:
        psql.execute(f"ALTER DOMAIN {rule['domain']} DROP CONSTRAINT {rule['name']}")
    yield
    psql.execute("DELETE FROM assessments.assessment_states")
    for rule in rules:
        psql.execute(f"ALTER DOMAIN {rule['domain']} ADD CONSTRAINT {rule['name']} {rule['rule']}")


@pytest.fixture
def bad_rows(psql, older_than_the_rules):
    """One good assessment, and one for each kind of unexpected request or result."""
    psql.execute("SET search_path = assessments")
    good = '{"serverName": "srv", "assessmentType": "llm_rubric"}'
    psql.execute("SELECT create_assessment('good', %s)", [good])
    for name, document in DOCUMENTS.items():
        psql.execute("INSERT INTO assessment_states (assessment_id, request_data) "
                     f"VALUES ('request-{name}', ({document})::jsonb)")  # fmt: skip
        psql.execute(f"SELECT create_assessment('result-{name}', %s)", [good])
        psql.execute(f"SELECT update_assessment_state('result-{name}', 'processing', 1)")
        psql.execute(f"""
            UPDATE assessment_states SET state = 'completed', progress = 100, version = 3, completed_at = now(),
                   result_data = ({document})::jsonb WHERE assessment_id = 'result-{name}'
        """)
    return psql


def test_a_list_shows_every_row_and_says_what_is_wrong_with_which(gristmill, bad_rows):
    """Table and JSON lack only the field that cannot be shown."""
    code, shown, said = gristmill("list")
    listed = {row["assessment_id"]: row for row in as_json(gristmill, "list")}

    assert (code, said) == (0, "")
    assert len(listed) == 1 + 2 * len(DOCUMENTS)
    lines = {line.split()[0]: line for line in shown.splitlines()}
    assert "llm_rubric" in lines["good"]
    for name in DOCUMENTS:
        for field in ("request", "result"):
            line, row = lines[f"{field}-{name}"], listed[f"{field}-{name}"]
            assert (f"{field}_data" in row["unreadable"]) is (name in UNREADABLE)
            assert f"{field}_data" in line or (field == "result" and name == "null")
    assert listed["request-list"]["request_data"] == [0.8, 0.9]
    assert "request_data must be a JSON object, got [0.8, 0.9]" in lines["request-list"]
    assert "holds an integer of more digits than can be read" in lines["request-digits"]
    assert "result_data must be a finite number within ±1e308, got an integer of" in lines["result-exponent"] or (
        "holds an integer of more digits" in lines["result-exponent"]
    )
    assert "is nested too deeply to be shown" in lines["result-deep"]


def test_each_of_them_can_be_shown_and_the_good_one_audited(gristmill, bad_rows):
    """Each one can be shown as text and as JSON."""
    for name in (f"{field}-{name}" for field in ("request", "result") for name in DOCUMENTS):
        assert gristmill("show", name)[0] == 0
        assert as_json(gristmill, "show", name)["assessment"]["assessment_id"] == name
    for command in ("audit", "metrics"):
        assert gristmill(command, "result-digits")[0] == 0


def test_reports_count_them_all(gristmill, bad_rows, tmp_path):
    """Their types are unknown, but their durations count."""
    code, shown, _ = gristmill("stats", "--plot", "hours.svg")

    assert code == 0
    counts = {one["state"]: one["count"] for one in as_json(gristmill, "stats")["states"]}
    assert counts == {"pending": 1 + len(DOCUMENTS), "completed": len(DOCUMENTS)}
    assert "llm_rubric" in shown
    assert (tmp_path / "hours.svg").exists()


def test_they_can_be_cancelled(gristmill, bad_rows):
    """Any assessment can be cancelled, whatever its documents hold."""
    for name in DOCUMENTS:
        assert gristmill("cancel", f"request-{name}")[0] == 0


@pytest.mark.parametrize("time", ["0001-01-02 00:00:00+00", "9999-12-31 00:00:00+00"])
def test_times_at_the_edges_are_shown_and_counted(gristmill, psql, time):
    """The limits of the table are shown in any time zone."""
    psql.execute("SELECT assessments.create_assessment('good', '{}')")
    psql.execute("INSERT INTO assessments.assessment_states (assessment_id, request_data, created_at, next_retry_at) "
                 "VALUES ('edge', '{}', %s, %s)", [time, time])  # fmt: skip
    psql.execute("SELECT assessments.update_assessment_state('edge', 'cancelled', 1)")

    for command in (("list",), ("show", "edge"), ("audit", "edge"), ("metrics", "edge"), ("stats",)):
        assert gristmill(*command)[0] == 0
        as_json(gristmill, *command)
    for view in ("active_assessments", "completed_assessments_summary", "assessment_stats_by_hour", "assessment_queue",
                 "assessment_state_audit"):  # fmt: skip
        assert psql.execute(f"SELECT * FROM assessments.{view}").fetchall()


def test_a_time_that_no_client_can_read_is_shown_as_text(gristmill, psql):
    """Such a row is older than the rule; its other fields are shown."""
    psql.execute("SELECT assessments.create_assessment('good', '{}')")
    psql.execute("SELECT assessments.create_assessment('far', '{}')")
    rule = "ALTER TABLE assessments.assessment_states {} CONSTRAINT ck_assessment_states_times {}"
    found = psql.execute(
        "SELECT pg_get_constraintdef(oid) AS it FROM pg_constraint WHERE conname = 'ck_assessment_states_times'"
    ).fetchone()
    psql.execute(rule.format("DROP", ""))
    try:
        psql.execute("UPDATE assessments.assessment_states SET next_retry_at = 'infinity' WHERE assessment_id = 'far'")
        listed = {row["assessment_id"]: row for row in as_json(gristmill, "list")}
        code, shown, _ = gristmill("show", "far")
    finally:
        psql.execute("UPDATE assessments.assessment_states SET next_retry_at = NULL")
        psql.execute(rule.format("ADD", found["it"]))

    assert (code, len(listed)) == (0, 2)
    assert listed["far"]["unreadable"] == {
        "next_retry_at": "next_retry_at must be a time that clients can show, got infinity"
    }
    assert "must be a time that clients can show, got infinity" in shown


def test_a_history_with_a_context_that_nobody_can_read_is_whole(gristmill, psql):
    """``context`` has the reason why it is not shown."""
    psql.execute("SELECT assessments.create_assessment('a-1', '{}')")
    # An older release accepted this.
    psql.execute("UPDATE runtime.transitions SET context = ('{\"n\": ' || repeat('9', 5000) || '}')::jsonb")
    psql.execute("SELECT assessments.update_assessment_state('a-1', 'cancelled', 1)")

    first, second = as_json(gristmill, "audit", "a-1")

    assert first["context"] == "context holds an integer of more digits than can be read (4,300)"
    assert (second["context"], second["new_state"]) == (None, "cancelled")


# ── what ends without a start ───────────────────────────────────────────────────────────────────────────────────────


def measured(psql, name: str = "a-1") -> dict[str, Any]:
    rows = psql.execute(
        "SELECT metric_type, metric_value FROM assessments.assessment_metrics WHERE assessment_id = %s", [name]
    ).fetchall()
    return {row["metric_type"]: row["metric_value"] for row in rows}


def test_what_ends_without_a_start_took_no_time(gristmill, psql):
    """Without a start there is no duration and no row. It used to be measured as 24 days."""
    for name in ("function", "by hand", "cli"):
        psql.execute("SELECT assessments.create_assessment(%s, '{}')", [name])
    psql.execute("SELECT assessments.update_assessment_state('function', 'cancelled', 1)")
    psql.execute("UPDATE assessments.assessment_states SET state = 'cancelled', progress = 100, version = 2, "
                 "completed_at = now() WHERE assessment_id = 'by hand'")  # fmt: skip
    assert gristmill("cancel", "cli")[0] == 0

    assert [measured(psql, name) for name in ("function", "by hand", "cli")] == [{}, {}, {}]


@pytest.mark.parametrize(
    ("started", "milliseconds"), [("2 seconds", 2_000), ("-5 seconds", 0), ("90 days", 2147483647)]
)
def test_what_ran_took_the_time_from_its_start(psql, started, milliseconds):
    """The duration is limited to the range of the column, and never negative."""
    psql.execute("SELECT assessments.create_assessment('a-1', '{}')")
    psql.execute("UPDATE assessments.assessment_states SET dispatched_at = now()")
    psql.execute("UPDATE assessments.assessment_states SET state = 'processing', progress = 1, version = 2, "
                 "started_at = '2026-01-01T00:00:00Z'")  # fmt: skip
    psql.execute("UPDATE assessments.assessment_states SET state = 'cancelled', progress = 100, version = 3, "
                 "completed_at = started_at + %s::interval", [started])  # fmt: skip

    assert measured(psql) == {"processing_time": milliseconds}


# ── what the doors refuse ───────────────────────────────────────────────────────────────────────────────────────────

BROKEN = {
    "half a character": ("\ud800", "must be text without half a character"),
    "nul": ("\x00", "no text may contain a NUL character"),
    "nan": (float("nan"), "must be a finite number within ±1e308, got nan"),
    "infinity": (float("inf"), "must be a finite number within ±1e308, got inf"),
    "bytes": (b"x", "must be a value that JSON has, got b'x'"),
}


@pytest.mark.parametrize(("value", "line"), BROKEN.values(), ids=BROKEN)
async def test_no_door_of_the_store_takes_what_cannot_be_kept(database, value, line):
    """The transaction continues after each refusal."""
    async with database.session() as session:
        await states.create(session, "a-1", {})
        with pytest.raises(InvalidChange, match=line):
            await states.create(session, "a-2", {"x": value})
        with pytest.raises(InvalidChange, match=line):
            await states.update(session, "a-1", "processing", version=1, result_data={"x": value})
        with pytest.raises(InvalidActor, match=line):
            await states.update(session, "a-1", "processing", version=1, actor=Actor(context={"x": value}))
        with pytest.raises(InvalidChange, match=line):
            await cache.put(session, "a-1", {"x": value})
        if isinstance(value, str):
            for call in (states.get(session, value), audit_trail(session, value), states.create(session, value, {})):
                with pytest.raises(InvalidChange, match=line):
                    await call
            with pytest.raises(InvalidChange, match=line):
                await states.update(session, "a-1", "processing", version=1, error_message=value)
            with pytest.raises(InvalidActor, match=line):
                await states.update(session, "a-1", "processing", version=1, actor=Actor(changed_by=value))
        assert (await states.get(session, "a-1")).version == 1


@pytest.mark.parametrize("written", ["FAILED", "Failed", " failed "])
async def test_states_are_named_in_any_case_and_checked(database, gristmill, written):
    """This holds for every function that takes a state."""
    async with database.session() as session:
        await states.create(session, "a-1", {})
        await states.update(session, "a-1", "PROCESSING", version=1)
        await states.update(session, "a-1", written, version=2, error_message="boom")
        assert [one.status for one in await states.list_newest(session, state=written)] == ["failed"]
        with pytest.raises(InvalidChange, match=r"state must be one of pending, .*, got 'bogus'"):
            await states.list_newest(session, state="bogus")


def test_the_command_line_names_states_in_any_case_and_checks_them(gristmill, psql):
    """An unknown state is a usage error, not an empty list."""
    psql.execute("SELECT assessments.create_assessment('a-1', '{}')")

    assert [row["state"] for row in as_json(gristmill, "list", "--state", "PENDING")] == ["pending"]
    assert as_json(gristmill, "update", "a-1", "Processing", "--version", "1")["state"] == "processing"
    code, _, said = gristmill("list", "--state", "bogus")
    assert (code, "state must be one of" in said) == (2, True)


async def test_a_cached_document_that_nobody_can_read_is_nothing(database, psql):
    """The cache returns nothing and does not raise."""
    psql.execute("SELECT assessments.create_assessment('a-1', '{}')")
    psql.execute("SELECT assessments.put_cached_state('a-1', ('{\"n\": ' || repeat('9', 5000) || '}')::jsonb)")

    async with database.session() as session:
        assert await cache.get(session, "a-1") is None


async def test_statistics_of_failures_with_endless_messages_are_bounded(database, psql):
    """A report shows only the beginning of a long message."""
    psql.execute(
        "SELECT assessments.create_assessment('a-1', jsonb_build_object('assessmentType', repeat('x', 100000)))"
    )
    psql.execute("SELECT assessments.update_assessment_state('a-1', 'processing', 1)")
    psql.execute("SELECT assessments.update_assessment_state('a-1', 'failed', 2, NULL, repeat('9', 5000000))")

    async with database.session() as session:
        found = await statistics(session)

    assert [one.reason for one in found.failures] == ["N"]


# ── imports ─────────────────────────────────────────────────────────────────────────────────────────────────────────

GOOD = {"assessment_id": "good", "status": "completed", "created_at": "2026-01-01T00:00:00Z", "result": {"a": 1}}


def nested(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


# A line of JSON in the file, and its refusal.
BAD_LINES = {
    "half a character": ('{"a": "\\ud800"}', "result.a must be text without half a character (a lone surrogate)"),
    "nul": ('{"a": "\\u0000"}', "no text may contain a NUL character"),
    "nan": ('{"a": NaN}', "result.a must be a finite number within ±1e308, got nan"),
    "infinity": ('{"a": -Infinity}', "result.a must be a finite number within ±1e308, got -inf"),
    "too large": ('{"a": 1e400}', "result.a must be a finite number within ±1e308, got inf"),
    "digits": ('{"a": ' + "9" * 5_000 + "}", "the line holds an integer of more digits than can be read (4,300)"),
    "400 digits": ('{"a": ' + "9" * 400 + "}", "result.a must be a finite number within ±1e308, got an integer of"),
    "deep": (nested(900), "must be nested at most 64 levels deep"),
    "bottomless": (nested(100_000), "the line is nested too deeply to be read"),
}
BAD_FIELDS: dict[str, tuple[dict[str, object], str]] = {
    "id list": ({"assessment_id": ["x"]}, "assessment_id must be text, got ['x']"),
    "id true": ({"assessment_id": True}, "assessment_id must be text, got True"),
    "id half": ({"assessment_id": "x\ud800"}, "assessment_id must be text without half a character"),
    "status list": ({"status": []}, "status must be one of"),
    "status true": ({"status": True}, "status must be one of"),
    "time true": ({"created_at": True}, "created_at must be a time in ISO 8601 or milliseconds since 1970, got True"),
    "time list": ({"created_at": [1]}, "created_at must be a time in ISO 8601"),
    "time far": ({"created_at": "9999-12-31T23:59:59-23:59"}, "created_at must be a time in ISO 8601"),
    "time future": ({"created_at": "9000-01-01T00:00:00Z"}, "created_at must not lie in the future"),
    "time early": ({"created_at": "0001-01-01T00:00:00+10:00"}, "created_at must be a time in ISO 8601"),
    "time old": ({"created_at": "1500-01-01T00:00:00Z"}, "created_at must not lie before 1970"),
    "time infinite": ({"created_at": "infinity"}, "created_at must be a time in ISO 8601"),
    "time huge": ({"created_at": 1e300}, "created_at must be a time in ISO 8601"),
    "updated later": ({"updated_at": "9000-01-01T00:00:00Z"}, "updated_at must not lie in the future"),
    "options": ({"options": '{"a": 1e999}'}, "options.a must be a finite number within ±1e308, got inf"),
    "error bytes": ({"error": "\x00"}, "no text may contain a NUL character"),
}  # fmt: skip


async def test_an_import_refuses_each_bad_line_with_its_reason_and_takes_the_others(database, psql, tmp_path):
    """Bad and good lines are in one batch; a repeated line is imported once."""
    lines, expected = [], {}
    for name, (result, reason) in BAD_LINES.items():
        whole = json.dumps({**GOOD, "assessment_id": name, "result": "HERE"})
        lines.append(whole.replace('"HERE"', result))
        expected[len(lines)] = reason
        lines.append(json.dumps({**GOOD, "assessment_id": f"after {name}"}))
    for change, reason in BAD_FIELDS.values():
        lines.append(json.dumps({**GOOD, **change}))
        expected[len(lines)] = reason
    lines += [json.dumps(GOOD)] * 2
    path = tmp_path / "old.jsonl"
    path.write_text("\n".join(lines))

    report = await import_assessments(database.session, rows_of_file(path))

    refused = {one.position: one.reason for one in report.refused}
    assert refused.keys() == expected.keys()
    assert [at for at, reason in expected.items() if reason not in refused[at]] == [], refused
    assert (report.read, report.taken.total(), report.already_there) == (len(lines), len(BAD_LINES) + 1, 1)
    assert all(len(one.reason.splitlines()) == 1 and len(one.reason) < 400 for one in report.refused)
    taken = psql.execute("SELECT count(*) AS n FROM assessments.assessment_states WHERE state = 'completed'").fetchone()
    assert taken["n"] == len(BAD_LINES) + 1


def test_the_command_prints_and_writes_refusals_of_any_text(gristmill, tmp_path):
    """One entry is taken and one is refused with its reason; a lone surrogate is written as an escape."""
    bad = {**GOOD, "assessment_id": "bad\ud800", "result": {"a": "\ud800"}}
    Path(tmp_path / "old.jsonl").write_text("\n".join(map(json.dumps, [bad, GOOD])))

    code, output, _ = gristmill("import", "old.jsonl", "--refused", "refused.jsonl")

    assert code == 1
    assert r"bad\ud800" in output
    [refused] = [json.loads(line) for line in (tmp_path / "refused.jsonl").read_text().splitlines()]
    assert refused["assessment_id"] == r"bad\ud800"
    assert [row["assessment_id"] for row in as_json(gristmill, "list")] == ["good"]


async def test_rows_of_a_table_that_the_driver_cannot_hold_are_refused_alone(database, psql):
    """A time of 'infinity' or a number of 5,000 digits does not end the import of the other rows."""
    psql.execute("DROP TABLE IF EXISTS public.existing_assessments")
    psql.execute("CREATE TABLE public.existing_assessments (assessment_id text, status text, created_at timestamptz, "
                 "result jsonb, options json)")  # fmt: skip
    rows = {
        "good": "'2026-01-01', '{}', '{}'",
        "far": "'infinity', '{}', '{}'",
        "old": "'0044-03-15 BC', '{}', '{}'",
        "digits": "'2026-01-01', ('{\"a\": ' || repeat('9', 5000) || '}')::jsonb, '{}'",
        "half": "'2026-01-01', '{}', '{\"a\": \"\\ud800\"}'",
    }
    for name, values in rows.items():
        psql.execute(f"INSERT INTO public.existing_assessments VALUES ('{name}', 'completed', {values})")

    connection = await database.listen()
    report = await import_assessments(database.session, rows_of_table(connection, "public.existing_assessments"))
    await connection.close()
    psql.execute("DROP TABLE public.existing_assessments")

    reasons = {one.position: one.reason for one in report.refused}
    assert (report.read, report.taken) == (5, {"completed": 1})
    assert "created_at must be a time in ISO 8601" in reasons[2]
    assert "created_at must be a time in ISO 8601" in reasons[3]
    assert reasons[4] == "the row holds an integer of more digits than can be read (4,300)"
    assert "options.a must be text without half a character" in reasons[5]


OWNER = "00000000-0000-0000-0000-0000000a11ce"


def test_an_import_gives_what_it_takes_to_an_owner(gristmill, psql, tmp_path):
    """The command names the owner. Assessments that were cleaned up are not imported again for that owner."""
    Path(tmp_path / "old.jsonl").write_text(json.dumps(GOOD))

    for owner in ((), ("--owner", OWNER), ("--owner", OWNER)):
        assert gristmill("import", "old.jsonl", *owner)[0] == 0
    psql.execute("DELETE FROM assessments.assessment_states WHERE owner_id IS NOT NULL")
    assert gristmill("import", "old.jsonl", "--owner", OWNER)[0] == 0

    left = psql.execute("SELECT owner_id FROM assessments.assessment_states").fetchall()
    assert [row["owner_id"] for row in left] == [None]


def test_the_command_line_asks_whose_where_several_owners_have_the_name(gristmill, psql):
    """This holds for every command with a name; --owner selects the owner, and the list shows it."""
    owners = [OWNER, OWNER.replace("a11ce", "00b0b")]
    request = ("--server", "s", "--type", "t")
    for owner in owners:
        assert gristmill("create", "a-1", *request, "--owner", owner)[0] == 0
        psql.execute("INSERT INTO assessments.assessment_metrics (assessment_id, metric_type, metric_value, owner_id) "
                     "VALUES ('a-1', 'x', 1, %s)", [owner])  # fmt: skip

    for command in (("show",), ("audit",), ("metrics",), ("cancel",)):
        code, _, said = gristmill(*command, "a-1")
        assert (code, said.startswith("gristmill: assessment 'a-1' belongs to several owners: say whose")) == (2, True)
        assert gristmill(*command, "a-1", "--owner", owners[0])[0] == 0
    assert gristmill("update", "a-1", "processing", "--version", "1", "--owner", owners[1])[0] == 0
    states_of = {row["owner_id"]: row["state"] for row in as_json(gristmill, "list")}
    assert states_of == {owners[0]: "cancelled", owners[1]: "processing"}
    assert [row["owner_id"] for row in as_json(gristmill, "list", "--owner", owners[1])] == [owners[1]]
    assert "OWNER" in gristmill("list")[1]
    assert as_json(gristmill, "show", "a-1", "--owner", owners[0])["assessment"]["owner_id"] == owners[0]
