"""The ledger: what a call used, once; what a dead process left; totals that are its sum; months that come and go."""

import random
import uuid
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from psycopg import errors

from tests.support.admission import call, usage
from tests.support.kernel import Jobs
from workers.llm.ledger.orphans import orphan_calls_of
from workers.llm.ledger.totals import differences
from workers.runtime.beat.maintenance import keep_partitions, orphan_calls

CENT: dict[str, Any] = {"tokens": 2_000, "output": 4_000}
COST = Decimal("0.01")
LONG_AGO = "UPDATE llm.calls SET created_at = created_at - interval '1 hour'"


def test_a_call_leaves_one_row_with_all_that_is_known(rows, clock):
    """For whom, whom, at which price, how much of each kind of token, by whose count."""
    owner, project, profile, job = (uuid.uuid4() for _ in range(4))
    one = call(owner=owner, project=project, profile=profile, job=job, version=7, **CENT)

    rows.admit(one)
    clock.advance(3)
    rows.settle(
        one, input=1_000, cached=400, output=100, reasoning=60, usage={"total_tokens": 1_100}, served="m-2", seconds=2.5
    )

    [row] = rows.ask("SELECT * FROM llm.calls")
    assert row | {"created_at": None, "settled_at": None} == {
        "id": one.id, "created_at": None, "job_id": job, "version": 7, "attempt": 1, "stage": "scoring.score",
        "owner_id": owner, "project_id": project, "profile_id": profile, "worker_id": None, "route": "r", "step": 0,
        "provider": "p", "model": "m", "served_model": "m-2", "kind": "chat", "lane": "normal", "batch_id": None,
        "state": "settled", "estimated_input": 2_000, "max_output": 4_000, "estimated_usd": COST,
        "input_tokens": 1_000, "cached_input_tokens": 400, "output_tokens": 100, "reasoning_tokens": 60,
        "usage": {"total_tokens": 1_100}, "input_price": 1, "cached_price": Decimal("0.1"), "output_price": 2,
        "usd": Decimal("0.00084"), "settled_at": None, "seconds": 2.5, "failure": None,
    }  # fmt: skip


@pytest.mark.parametrize("second", ["settled", "failed", "orphaned", "released"])
def test_a_settle_counts_once(rows, clock, second):
    """C7: whatever is said of a call that is settled, in the same statement or later, changes nothing."""
    limit = rows.limit("tokens", 1_000_000)
    rows.budget(usd=1)
    one = call(**CENT)
    rows.admit(one)
    assert rows.settle(one, input=1_000, output=0) == 1
    before = (rows.used(limit), rows.totals(), rows.ask("SELECT * FROM llm.calls"))

    assert rows.settle(one, became=second, input=5_000, output=5_000) == 0

    assert (rows.used(limit), rows.totals(), rows.ask("SELECT * FROM llm.calls")) == before


def test_an_orphan_that_comes_back_is_corrected(rows, clock):
    """C6: its estimate counted as paid until then; afterwards what it used does, once."""
    limit = rows.limit("tokens", 1_000_000)
    rows.budget(usd=1)
    one, refused = call(**CENT), call(**CENT)
    rows.admit(one, refused)
    rows.settle(one, refused, became="orphaned")
    assert rows.used(limit) == 2 * 6_000
    assert (rows.totals()["b"]["reserved_usd"], rows.totals()["b"]["spent_usd"]) == (0, 2 * COST)

    rows.settle(one, input=1_000, output=0)
    rows.settle(refused, became="failed")

    assert rows.used(limit) == 1_000
    assert rows.totals()["b"]["spent_usd"] == Decimal("0.001")
    assert rows.differences() == []


def test_what_was_never_made_leaves_nothing(rows, clock):
    """Not even the request of it; its row is gone."""
    requests, tokens = rows.limit("requests", 5), rows.limit("tokens", 100_000)
    rows.budget(usd=1)
    one, kept = call(**CENT), call(**CENT)
    rows.admit(one, kept)

    rows.settle(one, became="released")

    assert (rows.used(requests), rows.used(tokens)) == (1, 6_000)
    assert rows.ask("SELECT id FROM llm.calls") == [{"id": kept.id}]
    assert rows.differences() == []


def test_what_a_provider_refused_costs_nothing_but_was_asked(rows, clock):
    """A 429 counts as a request: the provider counts it, too."""
    requests, tokens = rows.limit("requests", 5), rows.limit("tokens", 100_000)
    one = call(**CENT)
    rows.admit(one)

    rows.settle(one, became="failed", failure="429")

    assert (rows.used(requests), rows.used(tokens)) == (1, 0)
    assert rows.ask("SELECT state, usd, failure FROM llm.calls") == [{"state": "failed", "usd": 0, "failure": "429"}]


def test_the_batch_lane_is_under_budgets_alone(rows, clock):
    """C18: what is sent in a batch is in nobody's minute; it is paid at its own rate."""
    requests = rows.limit("requests", 0)
    rows.budget(usd=1)

    assert rows.admit(call(**CENT, lane="batch"))[0] is None

    assert rows.used(requests) == 0


async def test_a_kept_answer_costs_nothing_and_is_no_request(rows, admission):
    """C22: it has a row, in the state cached."""
    rows.limit("requests", 0)
    rows.budget(usd=0)

    await admission.record_cached(call(**CENT), usage(1_000, 100, served_model="m-2"))

    row = rows.ask("SELECT state, usd, input_tokens, output_tokens, served_model FROM llm.calls")
    assert row == [{"state": "cached", "usd": 0, "input_tokens": 1_000, "output_tokens": 100, "served_model": "m-2"}]
    assert rows.differences() == []


async def test_a_silent_worker_leaves_orphans(rows, database):
    """C6: once its lease is over, and only those of it; they count at their estimates."""
    alive, dead, gone = rows.worker(), rows.worker(lease=10, silent=11), uuid.uuid4()
    rows.budget(usd=1)
    for worker in (alive, dead, gone):
        rows.admit(call(**CENT), worker=worker)
    assert await orphan_calls(database) == {"llm.calls": 0, "rows of admission": 0}  # younger than the grace
    rows.ask(LONG_AGO)

    assert (await orphan_calls(database))["llm.calls"] == 2

    states = {row["worker_id"]: (row["state"], row["failure"]) for row in rows.ask("SELECT * FROM llm.calls")}
    silent = ("orphaned", "its process fell silent")
    assert states == {alive: ("reserved", None), dead: silent, gone: silent}
    assert (await orphan_calls(database))["llm.calls"] == 0


async def test_a_run_that_is_over_leaves_orphans(rows, database, registry):
    """Its job has moved on, or is gone; a run that goes on keeps its reservations, however old they are."""
    jobs = Jobs(database, registry)
    running, moved = await jobs.running(count=2)
    worker = rows.worker()
    rows.admit(*(call(job=job.id, version=job.version) for job in (running, moved)), worker=worker)
    rows.admit(call(job=uuid.uuid4(), version=1), worker=worker)
    rows.ask(LONG_AGO)
    rows.ask("SELECT runtime.cancel(%s)", moved.id)

    assert (await orphan_calls(database))["llm.calls"] == 2

    left = rows.ask("SELECT job_id FROM llm.calls WHERE state = 'reserved'")
    assert left == [{"job_id": running.id}]


async def test_a_batch_outlives_its_worker(rows, database):
    """For as long as a batch may take."""
    rows.admit(call(lane="batch"), worker=uuid.uuid4())
    rows.ask(LONG_AGO)
    assert (await orphan_calls(database))["llm.calls"] == 0
    rows.ask("UPDATE llm.calls SET created_at = created_at - interval '3 days'")

    assert (await orphan_calls(database))["llm.calls"] == 1


async def test_a_process_that_ends_orphans_its_own(rows, database):
    """Without a grace, and nobody else's."""
    mine, other = uuid.uuid4(), uuid.uuid4()
    rows.admit(call(), call(), worker=mine)
    rows.admit(call(), worker=other)

    async with database.kernel() as conn:
        assert await orphan_calls_of(conn, mine) == 2

    assert rows.states() == {"orphaned": 2, "reserved": 1}


def test_totals_are_the_sum_of_the_ledger_whatever_happens(rows, clock):
    """Seeded histories of reservations, ends of every kind, repetitions and midnights."""
    draw = random.Random(14)
    owners = [uuid.UUID(int=n) for n in range(3)]
    rows.budget("all", usd=10**6, window="total")
    rows.budget("day", tokens=10**9, zone="Asia/Tokyo")
    rows.budget("alice", usd=10**6, scope="tenant", scope_value=str(owners[0]), window="week")
    under_way = []

    for _ in range(150):
        clock.advance(draw.expovariate(1 / 3_600))
        new = [
            call(owner=draw.choice(owners), tokens=draw.randrange(5_000), output=draw.randrange(5_000),
                 lane=draw.choice(["normal", "batch"]), model=draw.choice(["m", "m", "unknown"]),
                 stage=draw.choice([None, "s"]))
            for _ in range(draw.randrange(6))
        ]  # fmt: skip
        verdicts = rows.admit(*new) if new else []
        under_way += [one for one, verdict in zip(new, verdicts, strict=True) if verdict is None]
        for one in draw.sample(under_way, min(len(under_way), draw.randrange(5))):
            became = draw.choice(["settled", "settled", "failed", "orphaned", "released"])
            rows.settle(one, became=became, input=draw.choice([None, draw.randrange(9_000)]), output=draw.randrange(99))
            if draw.random() < 0.7:
                under_way.remove(one)
        assert rows.differences() == []

    assert set(rows.states()) >= {"reserved", "settled", "failed", "orphaned"}


async def test_a_difference_is_shown(rows, database):
    """What somebody changed by hand is found, by budget and window."""
    rows.budget("b", usd=1)
    rows.admit(call(**CENT))
    rows.ask("UPDATE llm.budget_totals SET reserved_usd = reserved_usd + 1")

    async with database.kernel() as conn:
        [found] = await differences(conn)

    assert (found.budget, found.total.reserved_usd, found.ledger.reserved_usd) == ("b", COST + 1, COST)


async def test_months_are_made_ahead_and_dropped(rows, database):
    """By the action that keeps those of the history; calls of the last two months stay whatever is asked for."""
    rows.ask("CREATE TABLE llm.calls_2020_01 PARTITION OF llm.calls FOR VALUES FROM ('2020-01-01') TO ('2020-02-01')")
    rows.admit(call())
    [row] = rows.ask("SELECT tableoid::regclass::text AS name, to_char(now(), 'YYYY_MM') AS month FROM llm.calls")
    assert row["name"] == f"llm.calls_{row['month']}"

    await keep_partitions(database, retention=timedelta(days=31))

    names = [row["name"] for row in rows.ask(
        "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = 'llm.calls'::regclass"
    )]  # fmt: skip
    assert len(names) == 5
    assert "llm.calls_2020_01" not in names
    assert rows.states() == {"reserved": 1}
    with pytest.raises(errors.InvalidParameterValue, match="31 days or more"):
        rows.ask("SELECT llm.drop_call_partitions('1 day')")


def test_what_no_decision_needs_is_tidied_away(rows, clock):
    """Buckets out of their windows, learned limits and cooldowns that are over; what counts stays."""
    limit = rows.limit("requests", 100, 60)
    rows.limit("requests", 1, 1, provider="other", set_by="learned", until=clock.now() + timedelta(seconds=1))
    rows.ask("SELECT llm.cool_down('p', 'x', 1, 'r')")
    rows.admit(call())
    clock.advance(100)
    rows.admit(call())

    assert rows.ask("SELECT llm.tidy() AS n") == [{"n": 1}]
    assert rows.used(limit) == 1
    clock.advance(3 * 86_400)
    rows.ask("UPDATE llm.cooldowns SET since = since - interval '9 days', until = until - interval '9 days'")
    assert rows.ask("SELECT llm.tidy() AS n") == [{"n": 3}]
    assert rows.used(limit) == 0


def test_the_ledger_refuses_what_cannot_be(rows):
    """C22: no negative tokens, no negative money, no settled call without a price."""
    insert = """INSERT INTO llm.calls (id, route, provider, model, kind, state, estimated_input{})
                VALUES (uuidv7(), 'r', 'p', 'm', 'chat', {})"""
    for more in ("'reserved', -1", "'free', 1", "'settled', 1"):
        with pytest.raises(errors.CheckViolation):
            rows.ask(insert.format("", more))
    with pytest.raises(errors.CheckViolation):
        rows.ask(insert.format(", usd", "'settled', 1, -0.01"))


RIGHTS = """
    SELECT r.role, c.relname, p.privilege FROM (VALUES ('gristmill_worker'), ('gristmill_dispatcher'),
                                                      ('gristmill_service'), ('gristmill_gateway')) AS r (role)
     CROSS JOIN unnest(%s::text[]) AS n (name)
     CROSS JOIN LATERAL (SELECT to_regclass('llm.' || n.name) AS relname) AS c
     CROSS JOIN unnest('{SELECT,INSERT,UPDATE,DELETE}'::text[]) AS p (privilege)
     WHERE has_table_privilege(r.role, c.relname, p.privilege)"""
TABLES = ["limits", "window_counts", "cooldowns", "budgets", "budget_totals", "budget_warnings", "askers", "calls"]


def test_workers_write_by_the_functions_alone(rows):
    """They read what they need; dispatchers what gates need; services and gateways nothing."""
    found: dict[str, set[str]] = {}
    for row in rows.ask(RIGHTS, TABLES):
        assert row["privilege"] == "SELECT"
        found.setdefault(row["role"], set()).add(row["relname"].removeprefix("llm."))

    assert found == {
        "gristmill_worker": set(TABLES) - {"askers"},
        "gristmill_dispatcher": {"limits", "window_counts", "cooldowns", "budgets", "budget_totals"},
    }


def test_a_worker_admits_and_settles_and_sets_no_limit(psql, rows):
    """Operators set limits and budgets; a worker keeps what a provider says of itself, and nothing of an operator's."""
    operators = rows.limit("requests", 5)
    one = call()
    with psql.transaction(force_rollback=True):
        psql.execute("SET LOCAL ROLE gristmill_worker")
        assert rows.admit(one) == [None]
        assert rows.settle(one, input=3) == 1
        assert rows.ask("SELECT llm.learn_limit('p', 'm', 'requests', 3, 60, 3600) AS news") == [{"news": True}]
        assert rows.ask("SELECT llm.learn_limit('p', 'm', 'requests', 3, 60, 3600) AS news") == [{"news": False}]
        assert rows.ask("SELECT llm.learn_limit('p', 'm', 'requests', 2, 60, 3600) AS news") == [{"news": True}]
        assert rows.ask("SELECT set_by, at_most FROM llm.limits ORDER BY 1") == [
            {"set_by": "learned", "at_most": 2}, {"set_by": "operator", "at_most": 5},
        ]  # fmt: skip
        assert rows.ask('SELECT calls FROM llm.capacity(\'[{"provider": "p", "model": "m"}]\')') == [{"calls": 1}]
        for statement in (
            "UPDATE llm.limits SET at_most = 9", "DELETE FROM llm.limits", "DELETE FROM llm.calls",
            "INSERT INTO llm.budgets (name, scope, \"window\", usd, \"then\") VALUES ('b', 'all', 'day', 1, 'warn')",
            "UPDATE llm.budget_totals SET spent_usd = 0", "SELECT llm.recount_limit(l) FROM llm.limits AS l",
            "SELECT llm.drop_call_partitions('1 year')",
        ):  # fmt: skip
            with pytest.raises(errors.InsufficientPrivilege), psql.transaction():
                psql.execute(statement)
    assert operators


@pytest.mark.parametrize("role", ["gristmill_service", "gristmill_gateway"])
def test_a_tenant_has_nothing_to_ask_here(psql, role):
    """No table, no function: not even to reserve calls in the name of others."""
    for statement in (
        "SELECT * FROM llm.calls", "SELECT llm.admit('[]', '[]')", "SELECT llm.settle_calls('[]', '[]')",
        "SELECT llm.cool_down('p', '', 1e9, 'r')", "SELECT llm.learn_limit('p', NULL, 'requests', 0, 1, 1e9)",
        "SELECT llm.capacity('[]')", "SELECT llm.orphan_calls()", "SELECT llm.clock()",
    ):  # fmt: skip
        with psql.transaction(force_rollback=True):
            psql.execute(f"SET LOCAL ROLE {role}")
            with pytest.raises(errors.InsufficientPrivilege):
                psql.execute(statement)
