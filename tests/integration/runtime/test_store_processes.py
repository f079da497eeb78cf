"""The rows of worker processes and of the leader."""

import asyncio
import uuid
from datetime import UTC, datetime, timedelta

import pytest

from gristmill_testing.waiting import until
from tests.support.kernel import PLAIN
from workers.runtime.store.processes import (
    LostLeadError,
    StageCapacity,
    WorkerRow,
    beat_heart,
    forget_silent_workers,
    mark_draining,
    remove_worker,
    report_leader,
    survey,
    try_to_lead,
    write_limits,
)


def worker_row(*, slots: int = 10, queues: tuple[str, ...] = ("proving",)) -> WorkerRow:
    return WorkerRow(id=uuid.uuid4(), name="w", queues=queues, slots=slots, lease_seconds=10)


async def capacity(jobs, stage: str = PLAIN) -> StageCapacity:
    async with jobs.database.kernel() as conn:
        return (await survey(conn))[stage]


async def test_a_heartbeat_writes_one_row_and_tells_the_databases_time(jobs):
    """The next heartbeat renews the same row."""
    worker = worker_row()
    async with jobs.database.kernel() as conn:
        await beat_heart(conn, worker, running=1)
        await jobs.sql("UPDATE runtime.workers SET heartbeat_at = now() - interval '1 hour'")
        now = await beat_heart(conn, worker, running=7)

    [row] = await jobs.sql("SELECT running, heartbeat_at FROM runtime.workers WHERE id = %s", worker.id)
    assert (row["running"], row["heartbeat_at"]) == (7, now)
    assert abs(now - datetime.now(UTC)) < timedelta(minutes=1)


async def test_a_stage_may_use_the_slots_of_every_living_worker_of_its_queue(jobs):
    """Workers that are draining, silent or of another queue do not count."""
    living, other, draining, silent, foreign = [worker_row() for _ in range(4)] + [worker_row(queues=("scoring",))]
    async with jobs.database.kernel() as conn:
        for worker in (living, other, draining, silent, foreign):
            await beat_heart(conn, worker, running=0)
        await mark_draining(conn, draining.id)
    await jobs.sql("UPDATE runtime.workers SET heartbeat_at = now() - interval '11 seconds' WHERE id = %s", silent.id)

    assert await capacity(jobs) == StageCapacity(paused=False, slots=20, workers=2)
    assert await capacity(jobs, "scoring.score") == StageCapacity(paused=False, slots=10, workers=1)


async def test_a_stage_without_workers_has_no_slots(jobs):
    """Then nothing is dispatched."""
    assert await capacity(jobs) == StageCapacity(paused=False, slots=0, workers=0)


async def test_a_worker_that_stopped_is_forgotten_at_once_and_one_that_vanished_after_a_day(jobs):
    """The jobs of the second one were rescued long before."""
    stopped, vanished, living = worker_row(), worker_row(), worker_row()
    async with jobs.database.kernel() as conn:
        for worker in (stopped, vanished, living):
            await beat_heart(conn, worker, running=0)
        await jobs.sql(
            "UPDATE runtime.workers SET heartbeat_at = now() - interval '25 hours' WHERE id = %s", vanished.id
        )

        await remove_worker(conn, stopped.id)
        assert await forget_silent_workers(conn) == 1

    assert [row["id"] for row in await jobs.sql("SELECT id FROM runtime.workers")] == [living.id]


async def test_one_leads_until_its_connection_goes(jobs):
    """The lease ends with its session; the next session that tries gets it, with a greater term."""
    one, other = await jobs.database.listen(), await jobs.database.listen()
    async with other:
        async with one:
            first = await try_to_lead(one, name="one")
            assert first
            assert await try_to_lead(other, name="other") is None

        await until(lambda: try_to_lead(other, name="other"))

    [row] = await jobs.sql("SELECT leader, listening, term > %s AS later FROM runtime.dispatcher", first)
    assert row == {"leader": "other", "listening": True, "later": True}


async def test_a_lease_that_ran_out_is_taken_from_a_living_session(jobs):
    """A silent leader is replaced although it is still connected; its next report raises."""
    one, other = await jobs.database.listen(), await jobs.database.listen()
    async with one, other:
        stalled = await try_to_lead(one, name="one")
        assert stalled
        await report_leader(one, stalled)
        await jobs.sql("UPDATE runtime.dispatcher SET expires_at = now() - interval '1 millisecond'")

        assert await try_to_lead(other, name="other")
        with pytest.raises(LostLeadError, match="another dispatcher leads"):
            await report_leader(one, stalled)

    [row] = await jobs.sql("SELECT leader FROM runtime.dispatcher")
    assert row == {"leader": "other"}


async def test_a_late_leader_may_go_on_until_another_one_leads(jobs):
    """An expired lease alone does not end a term; another leader does."""
    async with await jobs.database.listen() as conn:
        term = await try_to_lead(conn, name="one")
        assert term
        await jobs.sql("UPDATE runtime.dispatcher SET expires_at = now() - interval '1 hour'")

        await report_leader(conn, term)

    [row] = await jobs.sql("SELECT term, expires_at > now() AS led FROM runtime.dispatcher")
    assert row == {"term": term, "led": True}


async def test_a_term_never_comes_back(jobs):
    """This holds even if the row is gone, for example after a server crash, which empties unlogged tables."""
    terms = []
    for _ in range(3):
        async with await jobs.database.listen() as conn:
            terms.append(await try_to_lead(conn, name="one") or 0)
        await jobs.sql("DELETE FROM runtime.dispatcher")

    assert terms == sorted(set(terms))


async def test_of_many_who_ask_at_once_one_leads(jobs):
    """This holds at each attempt, also while the lease is free."""
    connections = [await jobs.database.listen() for _ in range(8)]
    for _ in range(20):
        await jobs.sql("UPDATE runtime.dispatcher SET expires_at = now() - interval '1 second'")
        terms = await asyncio.gather(*(try_to_lead(conn, name=str(n)) for n, conn in enumerate(connections)))
        assert len([term for term in terms if term is not None]) == 1, terms
    for conn in connections:
        await conn.close()


async def test_a_leaders_report_keeps_what_it_does_not_say(jobs):
    """A renewal does not change ``listening``."""
    async with await jobs.database.listen() as conn:
        term = await try_to_lead(conn, name="one")
        assert term
        await report_leader(conn, term, listening=False)
        await report_leader(conn, term)

    [row] = await jobs.sql("SELECT listening FROM runtime.dispatcher")
    assert row["listening"] is False


async def test_declared_limits_are_written_beside_their_stages(jobs):
    """``runtime.jobs`` needs them to say that a limit is reached."""
    async with jobs.database.kernel() as conn:
        await write_limits(conn, jobs.registry.values())

    rows = await jobs.sql("SELECT name, limit_at_most FROM runtime.stages WHERE name LIKE 'proving%'")
    assert {row["name"]: row["limit_at_most"] for row in rows} == {
        "proving.plain": None,
        "proving.keyed": 3,
        "proving.first": None,
        "proving.second": None,
        "proving.ask": None,
        "proving.act": None,
    }
