"""The newest schema enforces what the models declare: lifecycles, guards, checks and kernel indexes."""

import re

import pytest

from models import list_mapped, load_all
from models.lifecycle import PRIORITY_FIRST, PRIORITY_LAST, Job
from models.runtime import LifecycleDefinition
from tests.support.proving.models import KeyedJob, PlainJob, TwoStepJob, WaitingJob
from workers.runtime.store.tables import job_table

load_all()
MODELS: list[type[Job]] = [*list_mapped(Job)]
every_job_table = pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)


def rows(connection, statement: str, *values: object):
    return connection.exec_driver_sql(statement, values).all()


@every_job_table
def test_the_declared_lifecycle_is_the_enforced_one(connection, model):
    """This compares states, transitions and terminal states in ``runtime.lifecycles``."""
    t = job_table(model)

    [row] = rows(
        connection, "SELECT initial, terminal, transitions FROM runtime.lifecycles WHERE table_name = %s", t.label
    )

    lifecycle = t.lifecycle
    assert row.initial == lifecycle.initial
    assert set(row.terminal) == lifecycle.terminal
    assert row.terminal[:3] == [lifecycle.completed, lifecycle.failed, lifecycle.cancelled]
    assert {tuple(pair.split(">")) for pair in row.transitions} == lifecycle.transitions


@every_job_table
def test_the_trigger_names_every_legal_transition_and_no_other(connection, model):
    """``runtime.lifecycles`` only describes the transitions. This function enforces them."""
    t = job_table(model)

    [(source,)] = rows(
        connection,
        "SELECT p.prosrc FROM pg_trigger JOIN pg_proc AS p ON p.oid = tgfoid "
        "WHERE tgrelid = %s::regclass AND tgname = 'guard_update'",
        t.label,
    )

    legal = source.partition("ALL (ARRAY[")[2].partition("])")[0]
    assert {tuple(pair.strip("' ").split(">")) for pair in legal.split(",")} == t.lifecycle.transitions


@every_job_table
def test_the_declared_waits_ends_and_names_are_the_enforced_ones(connection, model):
    """This compares what SQL and doors read with what the guard and the statements were made from."""
    t, cycle = job_table(model), model.__lifecycle__

    [row] = rows(
        connection,
        "SELECT waits, ends, shown_as, wait_column, decide_statement FROM runtime.lifecycles WHERE table_name = %s",
        t.label,
    )

    assert row.waits == {
        wait.state: {
            "stage": cycle.step_of(wait.state).stage,
            "waits_for": wait.waits_for,
            "decides": list(wait.decides),
            "expires": wait.expires,
            "lasts_seconds": wait.lasts.total_seconds() if wait.lasts else None,
        }
        for wait in cycle.waits
    }
    assert row.ends == {end.state: end.counts_as for end in cycle.ends}
    assert row.shown_as == dict(cycle.shown_as)
    assert row.wait_column == (t.column[cycle.deadline].strip('"') if cycle.deadline else None)
    assert (row.decide_statement is not None) == bool(cycle.waits)


with_waits = pytest.mark.parametrize(
    "model", [model for model in MODELS if model.__lifecycle__.waits], ids=lambda model: model.__name__
)


@with_waits
def test_the_guard_knows_how_each_wait_ends(connection, model):
    """It knows the decisions of each wait, and the state after its deadline."""
    [(source,)] = rows(
        connection,
        "SELECT p.prosrc FROM pg_trigger JOIN pg_proc AS p ON p.oid = tgfoid "
        "WHERE tgrelid = %s::regclass AND tgname = 'guard_update'",
        job_table(model).label,
    )

    cycle = model.__lifecycle__
    decided = dict(re.findall(r"WHEN '(\w+)' THEN n\.\w+::text IN \(([^)]*)\)", source))
    expired = dict(re.findall(r"WHEN '(\w+)' THEN n\.\w+::text = '(\w+)'", source))
    assert {state: re.findall(r"\w+", into) for state, into in decided.items()} == {
        wait.state: list(wait.decides) for wait in cycle.waits
    }
    assert {wait.state: expired[wait.state] for wait in cycle.waits} == {w.state: w.expires for w in cycle.waits}


@with_waits
def test_a_check_requires_a_deadline_and_no_worker_in_a_wait(connection, model):
    """Expiry finds the oldest wait with an index that has only the waits."""
    t = job_table(model)
    name, column = t.label.partition(".")[2], t.column[model.__lifecycle__.deadline].strip('"')

    checks = dict(
        rows(
            connection,
            "SELECT conname::text, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = %s::regclass",
            t.label,
        )
    )
    indexes = dict(rows(connection, "SELECT indexname::text, indexdef FROM pg_indexes WHERE tablename = %s", name))

    for state in model.__lifecycle__.waiting:
        assert f"'{state}'" in checks[f"ck_{name}_wait_deadline"]
        assert f"'{state}'" in checks[f"ck_{name}_wait_is_idle"]
        assert f"'{state}'" in indexes[f"ix_{name}_waits"].partition(" WHERE ")[2]
    assert f"({column})" in indexes[f"ix_{name}_waits"]


@every_job_table
def test_every_stage_of_a_lifecycle_is_known_to_the_database(connection, model):
    """The database has its name and its states."""
    found = rows(
        connection,
        "SELECT name, ready, running, done FROM runtime.stages WHERE table_name = %s",
        job_table(model).label,
    )

    steps = model.__lifecycle__.steps
    assert {tuple(row) for row in found} == {(step.stage, step.ready, step.running, step.done) for step in steps}


@every_job_table
def test_both_guards_exist_on_the_table_and_on_each_partition(connection, model):
    """An UPDATE of a partition does not fire the statement trigger of its parent."""
    found = rows(
        connection,
        "SELECT t.relid::regclass::text, array_agg(g.tgname::text ORDER BY g.tgname) "
        "FROM pg_partition_tree(%s::regclass) AS t LEFT JOIN pg_trigger AS g ON g.tgrelid = t.relid "
        "AND g.tgname LIKE 'guard%%' AND g.tgenabled = 'O' GROUP BY 1",
        job_table(model).label,
    ) or rows(
        connection,
        "SELECT tgrelid::regclass::text, array_agg(tgname::text ORDER BY tgname) FROM pg_trigger "
        "WHERE tgrelid = %s::regclass AND tgname LIKE 'guard%%' AND tgenabled = 'O' GROUP BY 1",
        job_table(model).label,
    )

    assert found
    assert all(guards == ["guard_insert", "guard_update"] for _, guards in found)


@every_job_table
def test_the_kernels_indexes_are_partial(connection, model):
    """Alembic compares only their columns. Their conditions keep them small."""
    t = job_table(model)
    name = t.label.partition(".")[2]

    found = dict(rows(connection, "SELECT indexname::text, indexdef FROM pg_indexes WHERE tablename = %s", name))

    for index in (
        "ready",
        "due",
        "in_flight",
        "completed",
        "listed",
        "listed_later",
        "owned",
        "errors",
        "owned_errors",
    ):
        assert " WHERE " in found[f"ix_{name}_{index}"]
    assert "UNIQUE" in found[f"uq_{name}_idempotency_key"]


@every_job_table
def test_ranges_and_states_are_checks(connection, model):
    """CHECKs hold for every door."""
    t = job_table(model)
    name = t.label.partition(".")[2]

    checks = dict(
        rows(
            connection,
            "SELECT conname::text, pg_get_constraintdef(oid) FROM pg_constraint "
            "WHERE conrelid = %s::regclass AND contype = 'c'",
            t.label,
        )
    )

    assert f">= {PRIORITY_FIRST}" in checks[f"ck_{name}_priority"]
    assert f"<= {PRIORITY_LAST}" in checks[f"ck_{name}_priority"]
    assert ("progress = 100" in checks[f"ck_{name}_progress"]) == t.lifecycle.ends_at_full_progress
    for rule in ("terminal_timestamp", "version", "progress", "retry_count", "timeout_seconds"):
        assert f"ck_{name}_{rule}" in checks
    assert all(f"'{state}'" in checks[f"ck_{name}_status"] for state in t.lifecycle.states)


def test_every_lifecycle_in_the_database_has_a_model(connection):
    """Dropping a table must delete its lifecycle."""
    known = {job_table(model).label for model in MODELS}

    assert {name for (name,) in rows(connection, f"SELECT table_name FROM {LifecycleDefinition.__table__}")} == known


def test_the_proving_tables_are_made_like_those_of_every_domain():
    """So the tests on them are valid for the other tables."""
    assert {PlainJob, KeyedJob, TwoStepJob, WaitingJob} < set(MODELS)


def test_every_gate_has_its_index_and_is_told_by_its_column(connection, registry):
    """Without the index a pick through gates would read every job that is kept back."""
    gated = [stage for stage in registry.values() if stage.gate is not None]
    assert {stage.name for stage in gated} >= {"scoring.score", "proving.keyed", "proving.first"}

    for stage in gated:
        t = job_table(stage.model)
        column = t.column[stage.gate].strip('"')
        [(told,)] = rows(connection, "SELECT gate_column FROM runtime.lifecycles WHERE table_name = %s", t.label)
        [(index,)] = rows(
            connection,
            "SELECT pg_get_indexdef(to_regclass(%s))",
            f"{t.label.partition('.')[0]}.ix_{t.label.partition('.')[2]}_gated",
        )
        assert told.strip('"') == column
        limit = f"{t.column[stage.limit.column]}, " if stage.limit else ""
        assert f", {column}, {limit}priority, ".replace('"', "") in index.replace('"', "")
        assert stage.calls is not None
        assert not stage.model.__table__.c[column].nullable
