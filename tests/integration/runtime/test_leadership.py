"""Any number of dispatchers, one leader: a lease ends with its connection, and a term fences it."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg import errors
from structlog.testing import capture_logs

from gristmill_testing.waiting import until
from tests.support.fakes.road import FakeRoad
from tests.support.kernel import PLAIN, WIDE, Jobs, dispatching, leader, passes
from workers.runtime.database import Raw
from workers.runtime.handler.registry import Stage
from workers.runtime.store.dispatch import pick, unmark, unmark_exactly, wake_due
from workers.runtime.store.processes import try_to_lead
from workers.runtime.store.rescue import rescue_expired
from workers.runtime.store.tables import job_table

KEYED = "proving.keyed"


async def test_the_leader_is_notified_only_when_idle(jobs, start_dispatcher):
    """Under load it polls; a NOTIFY for each of many enqueues would slow them down."""
    listening = "SELECT listening FROM runtime.dispatcher"
    await jobs.worker(slots=400)
    await jobs.ready(count=800)
    road = FakeRoad()
    road.passable.clear()

    await start_dispatcher(road)
    road.passable.set()
    await until(lambda: len(road.of(PLAIN)) == 800)

    await until(lambda: jobs.sql(f"{listening} WHERE listening"))


async def test_a_second_dispatcher_follows_and_publishes_nothing(jobs, start_dispatcher):
    """One leads; the lease names it."""
    await jobs.worker()
    leading = await start_dispatcher(name="one")
    await until(lambda: leader(jobs))
    following = await start_dispatcher(name="two")

    await jobs.ready(count=10)
    await until(lambda: len(leading.of(PLAIN)) == 10)
    await passes(leading)

    assert (await leader(jobs), following.batches, following.checks) == ("one", [], 0)


async def test_the_second_takes_over_when_the_leaders_connection_is_killed(jobs, start_dispatcher):
    """This takes about a second. The first one continues, and no job is published twice."""
    await jobs.worker()
    one = await start_dispatcher(name="one", redispatch_seconds=3_600)
    await until(lambda: leader(jobs))
    two = await start_dispatcher(name="two", redispatch_seconds=3_600)
    await jobs.ready(count=5)
    await until(lambda: len(one.of(PLAIN)) == 5)

    for _ in range(3):
        await jobs.sql(
            "SELECT pg_terminate_backend(session_pid, 2000) FROM runtime.dispatcher"
            " WHERE session_pid IN (SELECT pid FROM pg_stat_activity)"
        )
        await jobs.ready(count=5)
    await until(lambda: len(one.of(PLAIN) + two.of(PLAIN)) == 20)

    assert len({job.id for job in one.of(PLAIN) + two.of(PLAIN)}) == 20


async def test_the_second_takes_over_when_the_leader_stalls(jobs, start_dispatcher):
    """A leader that is silent for three seconds loses its lease, its connection and its tickets."""
    await jobs.worker()
    stalled = FakeRoad()
    await start_dispatcher(stalled, name="one", redispatch_seconds=0.5)
    await until(lambda: leader(jobs))
    stalled.passable.clear()
    [job_id] = await jobs.ready()
    await until(lambda: stalled.attempts)

    other = await start_dispatcher(name="two", redispatch_seconds=0.5)
    await until(lambda: other.of(PLAIN), within=8)

    assert {job.id for job in other.of(PLAIN)} == {job_id}
    assert await leader(jobs) == "two"


async def test_a_stopped_leader_hands_over_at_once(jobs, database_url, registry, start_dispatcher):
    """It finishes its tick and closes its connection; then the next one leads."""
    await jobs.worker()
    road = FakeRoad()
    async with dispatching(database_url, registry, road, name="one"):
        await until(lambda: leader(jobs))
        second = await start_dispatcher(name="two")

    await jobs.ready()
    await until(lambda: second.of(PLAIN), within=3)


async def led(jobs: Jobs, name: str = "one") -> tuple[Raw, int]:
    """Return a connection that leads, and its term."""
    connection = await jobs.database.listen()
    term = await try_to_lead(connection, name=name)
    assert term
    return connection, term


async def replace_leader(jobs: Jobs, by: Raw) -> None:
    """Let another session take the lead from one that is still connected, as after a stall."""

    async def taken() -> int | None:
        # In a loop, because a live leader may renew its lease in between.
        await jobs.sql("UPDATE runtime.dispatcher SET expires_at = now() - interval '1 second'")
        return await try_to_lead(by, name="next")

    await until(taken)


@asynccontextmanager
async def two_leaders(jobs: Jobs) -> AsyncIterator[tuple[Raw, int]]:
    """Yield a connection with an old term while another one leads."""
    stale, term = await led(jobs)
    async with stale, await jobs.database.listen() as other:
        await replace_leader(jobs, other)
        yield stale, term


STEPS: dict[str, Callable[[Raw, Stage, int | None], Awaitable[object]]] = {
    "pick": lambda conn, stage, term: pick(conn, stage, WIDE, term=term),
    "unmark": lambda conn, stage, term: unmark(conn, stage, older_than=timedelta(), term=term),
    "wake": lambda conn, stage, term: wake_due(conn, stage.model, term=term),
    "rescue": lambda conn, stage, term: rescue_expired(conn, stage, led_for=timedelta(hours=1), term=term),
}


async def arrange(jobs: Jobs, step: str, stage: str) -> None:
    """Create a job of ``stage`` that ``step`` would change."""
    payload: dict[str, Any] = {"key": "a"} if stage == KEYED else {}
    table = job_table(jobs.registry[stage].model).name
    match step:
        case "pick":
            await jobs.ready(stage, **payload)
        case "unmark":
            await jobs.dispatched(stage, **payload)
        case "wake":
            await jobs.ready(stage, **payload)
            await jobs.sql(f"UPDATE {table} SET due_at = now() - interval '1 second'")
        case _:
            await jobs.running(stage, **payload)


@pytest.mark.parametrize("stage", [PLAIN, KEYED])
@pytest.mark.parametrize("step", STEPS)
async def test_what_a_leader_of_the_past_does_changes_nothing(jobs, step, stage):
    """Each of its statements names its old term. The same statements without a term work."""
    await arrange(jobs, step, stage)
    table = job_table(jobs.registry[stage].model).name
    before = await jobs.sql(f"SELECT * FROM {table}")

    async with two_leaders(jobs) as (stale, term):
        await STEPS[step](stale, jobs.registry[stage], term)
        assert await jobs.sql(f"SELECT * FROM {table}") == before

        await STEPS[step](stale, jobs.registry[stage], None)
    assert await jobs.sql(f"SELECT * FROM {table}") != before


async def test_a_leader_of_the_past_takes_no_ticket_back(jobs, plain):
    """Not even a ticket of a batch that it could not publish: the next leader may have given it again."""
    tickets = await jobs.dispatched()

    async with two_leaders(jobs) as (stale, term):
        await unmark_exactly(stale, plain.model, tickets, term=term)
        assert (await jobs.row(tickets[0][0]))["dispatched_at"]

        await unmark_exactly(stale, plain.model, tickets)
    assert not (await jobs.row(tickets[0][0]))["dispatched_at"]


@pytest.mark.parametrize("step", STEPS)
async def test_the_next_leader_waits_for_the_statement_under_way(jobs, step, plain):
    """So it counts the tickets of that statement: passes of two leaders never overlap."""
    await arrange(jobs, step, PLAIN)
    first, term = await led(jobs)
    async with first, await jobs.database.listen() as other:
        await jobs.sql("UPDATE runtime.dispatcher SET expires_at = now() - interval '1 second'")
        async with first.transaction():
            await STEPS[step](first, plain, term)
            taking = asyncio.ensure_future(try_to_lead(other, name="other"))
            await until(lambda: waits_for_lock(jobs, other))
        assert await taking


async def waits_for_lock(jobs: Jobs, conn: Raw) -> bool:
    """Tell whether this connection's statement waits for a lock."""
    statement = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'"
    return bool(await jobs.sql(statement, conn.info.backend_pid))


@pytest.mark.parametrize("step", STEPS)
async def test_a_leader_without_work_locks_nothing(jobs, step, plain):
    """It runs many times a second: a statement that writes nothing needs no transaction id."""
    first, term = await led(jobs)
    before = await jobs.sql("SELECT xmin::text, xmax::text FROM runtime.dispatcher")
    async with first:
        for _ in range(3):
            await STEPS[step](first, plain, term)

        assert await jobs.sql("SELECT xmin::text, xmax::text FROM runtime.dispatcher") == before


async def test_a_dispatcher_that_lost_its_lease_follows(jobs, start_dispatcher):
    """Its next renewal tells it. It gives no ticket in between, and it can lead again later."""
    await jobs.worker()
    first = await start_dispatcher(name="one", redispatch_seconds=3_600)
    await until(lambda: leader(jobs))
    with capture_logs() as said:
        async with await jobs.database.listen() as other:
            await replace_leader(jobs, other)
            await jobs.ready(count=5)
            await until(lambda: any(entry["event"] == "dispatcher_lost_lead" for entry in said))
            assert first.of(PLAIN) == []

        await until(lambda: len(first.of(PLAIN)) == 5)
    assert await leader(jobs) == "one"


async def test_whoever_may_connect_keeps_nobody_from_leading(jobs, database_url, start_dispatcher):
    """A service holds the lock of the previous release; it may neither lock nor write the lease."""
    with psycopg.connect(database_url, autocommit=True) as hostile:
        hostile.execute("SET ROLE gristmill_service")
        hostile.execute("SELECT pg_advisory_lock(113741093106689)")
        for attempt in (
            "SELECT * FROM runtime.dispatcher FOR KEY SHARE",
            "UPDATE runtime.dispatcher SET expires_at = 'infinity'",
            "INSERT INTO runtime.dispatcher (id, term, expires_at) VALUES (1, 1, 'infinity')",
            "DELETE FROM runtime.dispatcher",
            "TRUNCATE runtime.dispatcher",
            "LOCK TABLE runtime.dispatcher IN ACCESS SHARE MODE",
            "SELECT setval('runtime.dispatcher_terms', 1)",
            "SELECT nextval('runtime.dispatcher_terms')",
        ):
            with pytest.raises(errors.InsufficientPrivilege), hostile.transaction():
                hostile.execute(attempt)

        await jobs.worker()
        road = await start_dispatcher()
        await jobs.ready()
        await until(lambda: road.of(PLAIN))


async def test_a_dispatcher_changes_jobs_under_its_term_only(jobs, start_dispatcher, monkeypatch):
    """Every statement that changes a job checks the term, also statements that are added later."""
    written: list[str] = []
    execute = psycopg.AsyncConnection.execute

    async def recorded(self: Raw, query: Any, params: Any = None, **options: Any) -> Any:
        if "changed_by=dispatcher" in self.info.get_parameters().get("options", ""):
            written.append(query if isinstance(query, str) else query.decode())
        return await execute(self, query, params, **options)

    monkeypatch.setattr(psycopg.AsyncConnection, "execute", recorded)
    await jobs.worker()
    road = FakeRoad()
    await start_dispatcher(road)
    await jobs.ready()
    await until(lambda: road.of(PLAIN))
    await passes(road)

    changing = [one for one in written if re.search(r'UPDATE "', one)]
    assert changing
    assert all("term = %(term)s" in one for one in changing)


async def test_a_dispatcher_that_fails_whenever_it_leads_says_why_and_rests_longer(jobs, start_dispatcher):
    """A column was dropped. Without the pause it would lead and fail several times a second."""
    await jobs.worker()
    await jobs.sql("ALTER TABLE proving.plain_jobs RENAME COLUMN due_at TO elsewhere")
    try:
        with capture_logs() as said:
            await start_dispatcher()
            await until(lambda: len(failed_passes(said)) >= 2)
    finally:
        await jobs.sql("ALTER TABLE proving.plain_jobs RENAME COLUMN elsewhere TO due_at")

    first, second = failed_passes(said)[:2]
    assert "gristmill migrate" in first["error"]
    assert "due_at" in first["error"]
    assert first["again_in"] >= 1
    assert second["again_in"] >= 2
    assert (first["exc_info"], second["exc_info"]) == (True, False)


def failed_passes(said):
    return [line for line in said if line["event"] == "dispatcher_pass_failed"]
