"""The names of states that people use, and the stage of a job: the same at every door."""

import pytest

from tests.support.command_line import as_json
from tests.support.job_rows import ANALYTICS, INGEST, PLAIN, SCORING, cancelled, complete, failed_job, new_job, start
from workers.runtime.store.states import TableStates, UnknownStateError, match_states

TABLES = [
    TableStates("a.jobs", ["pending"], ["processing"], "completed", "failed", "cancelled"),
    TableStates("b.jobs", ["PENDING", "QUEUED"], ["PROCESSING", "VECTORIZING"], "COMPLETED", "FAILED", "CANCELLED"),
]


@pytest.mark.parametrize(
    ("name", "states"),
    [
        ("failed", {("a.jobs", "failed"), ("b.jobs", "FAILED")}),
        ("FAILED", {("a.jobs", "failed"), ("b.jobs", "FAILED")}),
        (" Failed ", {("a.jobs", "failed"), ("b.jobs", "FAILED")}),
        ("waiting", {("a.jobs", "pending"), ("b.jobs", "PENDING"), ("b.jobs", "QUEUED")}),
        ("ready", {("a.jobs", "pending"), ("b.jobs", "PENDING"), ("b.jobs", "QUEUED")}),
        ("running", {("a.jobs", "processing"), ("b.jobs", "PROCESSING"), ("b.jobs", "VECTORIZING")}),
        ("pending", {("a.jobs", "pending"), ("b.jobs", "PENDING")}),
        ("queued", {("b.jobs", "QUEUED")}),
        ("ended", {(t, s) for t in ("a.jobs", "b.jobs") for s in ("completed", "failed", "cancelled")}),
    ],
)
def test_a_state_is_a_group_or_a_tables_own_in_any_case(name, states):
    """Tables spell their states differently; a person can use one word for all."""
    found = set(match_states(TABLES, name))

    assert {(table, state.lower()) for table, state in found} == {(table, state.lower()) for table, state in states}
    assert all(state.isupper() == (table == "b.jobs") for table, state in found)


@pytest.mark.parametrize("name", ["bogus", "", " ", "fail", "%", "failed'; DROP"])
def test_an_unknown_state_is_refused_with_the_known_ones(name):
    """Otherwise it would find nothing, without an error."""
    with pytest.raises(
        UnknownStateError, match=r"^status must be one of waiting, running, completed, failed, cancelled"
    ):
        match_states(TABLES, name)


@pytest.fixture
def failures(psql):
    """One failed job of each table, and two jobs that were cancelled or completed."""
    cancelled(psql, SCORING, new_job(psql, SCORING))
    well = new_job(psql, ANALYTICS)
    start(psql, ANALYTICS, well)
    complete(psql, ANALYTICS, well)
    return {table: str(failed_job(psql, table, "no luck")) for table in (INGEST, ANALYTICS, SCORING, PLAIN)}


@pytest.mark.parametrize("status", ["failed", "FAILED", "Failed"])
def test_every_failed_job_is_found_whatever_its_table_calls_it(gristmill, failures, status):
    """The command of docs/operate.md finds all of them."""
    listed = as_json(gristmill, "jobs", "list", "--status", status)

    assert {job["id"] for job in listed} == set(failures.values())
    assert {job["status"] for job in listed} == {"failed", "FAILED"}  # JSON has the stored state


def test_a_person_reads_one_case(gristmill, failures):
    """This holds in every printed table."""
    _, output, _ = gristmill("jobs", "list")

    assert "FAILED" not in output
    assert "COMPLETED" not in output
    assert output.count(" failed ") == len(failures)
    _, shown, _ = gristmill("jobs", "show", failures[INGEST])
    assert "failed" in shown
    assert "PROCESSING" not in shown


@pytest.mark.parametrize(
    "command",
    [
        ("jobs", "list", "--status", "bogus"),
        ("jobs", "watch", "--status", "bogus"),
        ("jobs", "cancel", "--status", "bogus"),
        ("jobs", "retry", "--status", "bogus", "--dry-run"),
    ],
)
def test_a_state_that_there_is_not_is_wrong_usage_everywhere(gristmill, failures, command):
    """One line with the known names, exit code 2."""
    code, output, said = gristmill(*command)

    assert (code, output) == (2, "")
    assert said.startswith("gristmill: status must be one of waiting, running, completed, failed, cancelled, ready")
    assert "vectorizing" in said
    assert said.endswith("got 'bogus'")


@pytest.mark.parametrize(("step", "stage"), [(0, "ingestion.ingest"), (1, "vectorization.embed")])
def test_a_job_belongs_to_the_stage_in_which_it_failed(gristmill, psql, step, stage):
    """This holds at every door; a retry continues there and never skips it."""
    job = str(failed_job(psql, INGEST, "cannot be read", step=step))
    others = {"ingestion.ingest", "vectorization.embed"} - {stage}

    assert [one["id"] for one in as_json(gristmill, "jobs", "list", "--stage", stage)] == [job]
    assert all(as_json(gristmill, "jobs", "list", "--stage", other) == [] for other in others)
    counts = {one["stage"]: (one["failed"], one["cancelled"]) for one in as_json(gristmill, "stages")}
    assert (counts[stage], *(counts[other] for other in others)) == ((1, 0), (0, 0))
    [cause] = as_json(gristmill, "errors")["errors"]
    assert (cause["stage"], cause["sample_id"]) == (stage, job)
    verified = as_json(gristmill, "jobs", "verify")
    assert verified["ok"]
    assert [one["stage"] for one in verified["stages"] if one["failed"]] == [stage]

    dry = as_json(gristmill, "jobs", "retry", "--stage", stage, "--status", "failed", "--dry-run")
    assert dry["retried"] == [job]
    assert as_json(gristmill, "jobs", "retry", "--stage", stage)["retried"] == [job]

    ready = {0: "PENDING", 1: "QUEUED_FOR_VEC"}[step]
    [row] = psql.execute("SELECT stage, status FROM runtime.jobs").fetchall()
    assert (row["stage"], row["status"]) == (stage, ready)


def test_a_job_that_was_cancelled_belongs_to_the_stage_in_which_it_was(gristmill, psql):
    """It does not count for the last stage."""
    early, late = new_job(psql, INGEST), new_job(psql, INGEST)
    start(psql, INGEST, late, step=1)
    cancelled(psql, INGEST, early)
    cancelled(psql, INGEST, late)

    listed = {one["id"]: one["stage"] for one in as_json(gristmill, "jobs", "list", "--status", "cancelled")}
    counts = {one["stage"]: (one["failed"], one["cancelled"]) for one in as_json(gristmill, "stages")}

    assert listed == {str(early): "ingestion.ingest", str(late): "vectorization.embed"}
    assert (counts["ingestion.ingest"], counts["vectorization.embed"]) == ((0, 1), (0, 1))


def test_a_bulk_cancel_takes_a_group(gristmill, psql):
    """It cancels waiting jobs of every table, and no running job."""
    waiting = {str(new_job(psql, table)) for table in (INGEST, SCORING)}
    runs = new_job(psql, SCORING)
    start(psql, SCORING, runs)

    done = as_json(gristmill, "jobs", "cancel", "--status", "Waiting")

    assert set(done["cancelled"]) == waiting
    assert done["refused"] == {}


@pytest.mark.parametrize("type_", ["task", "TASK", "Task"])
def test_a_type_is_matched_in_any_case_where_one_is_given(gristmill, psql, type_):
    """Other doors accept the same kind of word in upper or lower case."""
    psql.execute("INSERT INTO operations.projects (name) VALUES ('p')")

    assert as_json(gristmill, "records", "list", "p", "--type", type_) == []
    assert gristmill("ratings", "compare", "p", "--type", type_)[0] == 0
    for command in (("records", "list", "p"), ("ratings", "compare", "p")):
        code, _, said = gristmill(*command, "--type", "bogus")
        assert (code, "type must be one of task, feedback, got 'bogus'" in said) == (2, True)
