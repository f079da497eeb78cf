"""Plans of the statements that run once per job, with wrong statistics: the table was analysed when it was empty.

The kernel's connections forbid the plans that the planner would choose then. The cost of a batch depends on its own
size, not on the size of the table.
"""

import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, cast

import pytest

from tests.support.kernel import Jobs
from workers.runtime.database import Database, Raw
from workers.runtime.dispatch.dispatcher import LEADER_SESSION
from workers.runtime.handler.outcomes import Complete
from workers.runtime.store import claim as claims
from workers.runtime.store import dispatch, rescue, settle
from workers.runtime.store.processes import try_to_lead
from workers.runtime.store.tables import job_table, tickets

ROWS = 4_000
BATCH = 64


@pytest.fixture
async def jobs(fresh_database_url, registry):
    """Four thousand jobs, most of them processing, in a table with the statistics of an empty one."""
    database = Database(fresh_database_url, changed_by="test")
    jobs = Jobs(database, registry)
    for table in ("plain_jobs", "keyed_jobs"):
        await jobs.sql(f"ALTER TABLE proving.{table} SET (autovacuum_enabled = false)")
        await jobs.sql(f"ANALYZE proving.{table}")
        await jobs.sql(
            f"INSERT INTO proving.{table} (act, key) "
            f"SELECT 'complete', (n % 50)::text FROM generate_series(1, {ROWS}) AS n"
        )
    yield jobs
    await database.close()


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield every node of a plan."""
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


async def analyzed(conn: Raw, statement: str, values: dict[str, Any]) -> list[dict[str, Any]]:
    """Run a statement, roll it back, and return the nodes of its plan."""
    async with conn.transaction(force_rollback=True):
        cursor = await conn.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}".encode(), values)
        [([explained],)] = await cursor.fetchall()
    return list(nodes(explained["Plan"]))


@pytest.fixture
async def kernel(jobs):
    """A connection with the settings of workers."""
    async with jobs.database.kernel() as conn:
        yield conn


@pytest.fixture
async def leader(jobs):
    """A connection with the settings of the leading dispatcher."""
    async with await jobs.database.listen(settings=LEADER_SESSION) as conn:
        yield conn


@pytest.fixture
async def led(leader):
    """The leader's connection and the term under which it leads."""
    return leader, await try_to_lead(leader, name="one")


def assert_read_by_primary_key(plan: list[dict[str, Any]]) -> None:
    """Assert that the table is read by its primary key, only for rows of the batch, without comparing each pair."""
    [scan] = [node for node in plan if "Index Name" in node]
    assert scan["Index Name"] == "pk_plain_jobs"
    assert scan["Actual Rows"] * scan["Actual Loops"] == BATCH
    assert not [node for node in plan if node["Node Type"] == "Seq Scan"]
    assert not any(node.get("Rows Removed by Filter") or node.get("Rows Removed by Join Filter") for node in plan)


@pytest.mark.parametrize("analysed", [False, True])
async def test_a_claim_reads_the_rows_of_its_tickets_and_no_others(jobs, plain, kernel, analysed):
    """Neither the partial index that seems to be empty nor the whole table is read."""
    if analysed:
        await jobs.sql("ANALYZE proving.plain_jobs")
    await jobs.sql("UPDATE proving.plain_jobs SET dispatched_at = now()")
    rows = await jobs.sql("SELECT id FROM proving.plain_jobs ORDER BY random() LIMIT %s", BATCH)
    values = {
        "running": "processing",
        "ready": "pending",
        "owner": uuid.uuid4(),
        "timeout": 20.0,
        **tickets([(row["id"], 1) for row in rows]),
    }

    plan = await analyzed(kernel, claims._claim_sql(job_table(plain.model)), values)

    assert plan[0]["Actual Rows"] == BATCH
    assert_read_by_primary_key(plan)


async def test_a_settle_reads_the_rows_of_its_runs_and_no_others(jobs, plain, kernel):
    """This holds also with values of the domain; the wrong plan took 215 ms instead of 6 ms."""
    await jobs.sql("UPDATE proving.plain_jobs SET dispatched_at = now()")
    await jobs.sql("UPDATE proving.plain_jobs SET status = 'processing', version = 2, lease_owner = %s", uuid.uuid4())
    rows = await jobs.sql("SELECT id FROM proving.plain_jobs ORDER BY random() LIMIT %s", BATCH)
    recorded = Recorder()
    runs = [plain.model(id=row["id"], version=2, retry_count=0, max_retries=5) for row in rows]

    await settle.settle(
        cast("Raw", recorded), plain.model, [jobs.outcome(run, Complete({"effects": 3})) for run in runs]
    )
    plan = await analyzed(kernel, recorded.statement, recorded.values)

    assert plan[0]["Actual Rows"] == BATCH
    assert_read_by_primary_key(plan)


class Recorder:
    """A replacement for a connection that records the statement and its values, so that both can be explained."""

    statement = ""
    values: dict[str, Any]

    async def execute(self, statement: str, values: dict[str, Any]) -> "Recorder":
        self.statement, self.values = statement, values
        return self

    async def fetchall(self) -> list[Any]:
        return []


async def test_a_pick_walks_the_ready_index_and_stops_at_its_window(led, plain):
    """It costs as much as it picks, whatever the backlog: no sort, no scan of the backlog."""
    leader, term = led
    window = {"slots": 40, "floor": 1, "at_most": BATCH, "term": term}

    plan = await analyzed(leader, dispatch._pick_sql(job_table(plain.model), plain, fenced=True), window)

    assert plan[0]["Actual Rows"] == BATCH
    [walk] = [node for node in plan if node.get("Index Name") == "ix_plain_jobs_ready"]
    assert walk["Actual Rows"] * walk["Actual Loops"] <= BATCH
    assert not [node for node in plan if node["Node Type"] == "Seq Scan" and node.get("Relation Name") == "plain_jobs"]


async def test_a_fair_pick_steps_from_key_to_key(led, registry):
    """With fifty keys of eighty jobs each, it reads only each key's share."""
    leader, term = led
    stage = registry["proving.keyed"]
    window = {"slots": 1_000, "floor": 1, "at_most": 512, "limit": 3, "cursor": None, "term": term}

    statement = dispatch._pick_fairly_sql(job_table(stage.model), stage, from_first=True, fenced=True)

    plan = await analyzed(leader, statement, window)

    walks = [node for node in plan if node.get("Index Name") == "ix_keyed_jobs_ready"]
    assert sum(node["Actual Rows"] * node["Actual Loops"] for node in walks) < ROWS / 5
    assert not [node for node in plan if node["Node Type"] == "Seq Scan" and node.get("Relation Name") == "keyed_jobs"]


@pytest.mark.parametrize(
    ("statement", "index", "values"),
    [
        ("wake", "ix_plain_jobs_due", {}),
        ("rescue", "ix_plain_jobs_in_flight", {"margin": timedelta(seconds=10), "led_for": timedelta(hours=1)}),
        ("unmark", "ix_plain_jobs_in_flight", {"older_than": timedelta()}),
    ],
)
async def test_a_chore_finds_its_rows_by_their_own_index(led, plain, statement, index, values):
    """A backlog of thousands of other jobs costs a chore nothing."""
    leader, term = led
    t = job_table(plain.model)
    text = {
        "wake": lambda: dispatch._wake_sql(t, fenced=True),
        "rescue": lambda: rescue._rescue_sql(t, plain, fenced=True),
        "unmark": lambda: dispatch._unmark_sql(t, plain, fenced=True),
    }[statement]()

    plan = await analyzed(leader, text, {**values, "term": term})

    assert index in {node.get("Index Name") for node in plan}
    assert not [node for node in plan if node["Node Type"] == "Seq Scan" and node.get("Relation Name") == "plain_jobs"]


async def test_a_prune_finds_its_rows_by_when_they_ended(kernel, plain):
    """It does not read jobs that have not ended."""
    values = {"retention": timedelta(days=1), "batch": 10}

    plan = await analyzed(kernel, rescue._prune_sql(job_table(plain.model)), values)

    assert "ix_plain_jobs_completed" in {node.get("Index Name") for node in plan}
