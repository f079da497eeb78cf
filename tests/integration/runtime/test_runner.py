"""A worker process in one test: the results of handlers, slots, deadlines, fences."""

import asyncio
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from tests.support.fakes.wire import wire_to
from tests.support.kernel import started_worker
from workers.runtime.handler.context import waiting_for_turn
from workers.runtime.handler.outcomes import Complete

BAD_VALUE = "outcome refused: result.nul must not contain a NUL character, which Postgres cannot store, got 'a\\x00b'"

# The result of each act of the proving stages after one run: status, attempts spent, and the error or result.
ACTS = [
    ("complete", "completed", 0, None),
    ("result", "completed", 0, None),
    ("write", "completed", 0, None),
    ("fail", "failed", 0, "told to fail"),
    ("permanent", "failed", 0, "told to give up"),
    ("cancel", "cancelled", 0, None),
    ("snooze", "pending", 0, None),
    ("rate_limited", "pending", 0, None),
    ("raise", "pending", 1, "RuntimeError: told to raise"),
    ("flaky", "pending", 1, "told to try again"),
    ("bad_write", "pending", 1, "DataError: division by zero"),
    ("bad_value", "failed", 0, BAD_VALUE),
    ("foreign_value", "failed", 0, "handler of 'proving.plain' set ['version'], which it may not set"),
    ("nonsense", "failed", 0, "handler of 'proving.plain' must return an outcome, got 'str'"),
]


@pytest.mark.parametrize("left", ACTS, ids=[act for act, *_ in ACTS])
async def test_an_act_leaves_its_outcome(jobs, worker, left):
    """Each kind of act runs once, from ticket to settled row."""
    act, status, attempts, error = left
    [ticket] = await jobs.dispatched(act=act)

    await worker.run([ticket])

    row = await jobs.row(ticket[0])
    assert (row["status"], row["retry_count"], row["error_message"]) == (status, attempts, error)
    assert (row["version"], row["dispatched_at"]) == (3, None)
    assert len(await jobs.actions(ticket[0])) == 3


async def test_values_and_writes_are_there_when_the_job_is_done(jobs, worker):
    """The result and the rows of the write commit together."""
    await jobs.ready(act="result")
    await jobs.ready(act="write")

    await worker.run(await jobs.dispatched(count=0))

    [one] = await jobs.sql("SELECT result, effects FROM proving.plain_jobs WHERE act = 'result'")
    [other] = await jobs.sql("SELECT result, effects FROM proving.plain_jobs WHERE act = 'write'")
    assert one == {"result": {"attempt": 1}, "effects": 0}
    assert other == {"result": {"wrote": True}, "effects": 1}


async def test_a_rate_limit_waits_as_long_as_it_was_told(jobs, worker):
    """The job waits a minute by the database's clock and spends no attempt."""
    [ticket] = await jobs.dispatched(act="rate_limited")

    await worker.run([ticket])

    row = await jobs.row(ticket[0])
    assert row["due_at"] - row["updated_at"] == timedelta(minutes=1)
    assert (await jobs.history(ticket[0]))[-1].change_reason == "told to wait, no progress in this run"


async def test_a_rate_limited_job_without_progress_is_told_and_then_fails(jobs, database_url, registry):
    """After so many runs in a row the reason says since when; once they last as long as idle_time, it has failed."""
    [job_id] = await jobs.ready(act="rate_limited")
    async with started_worker(database_url, registry, idle_runs=4) as worker:
        for _ in range(5):
            await jobs.sql("UPDATE proving.plain_jobs SET due_at = NULL")
            await worker.run(await jobs.dispatched(count=0))
    reasons = [one.change_reason for one in await jobs.history(job_id) if one.change_action == "snooze"]
    async with started_worker(database_url, registry, idle_runs=4, idle_time=timedelta(0)) as worker:
        await jobs.sql("UPDATE proving.plain_jobs SET due_at = NULL")
        await worker.run(await jobs.dispatched(count=0))
    row = await jobs.row(job_id)

    assert reasons[:3] == ["told to wait, no progress in this run"] * 3
    assert [reason.rpartition(" since ")[0] for reason in reasons[3:]] == [
        "told to wait, no progress in 4 runs",
        "told to wait, no progress in 5 runs",
    ]
    assert (row["status"], row["retry_count"]) == ("failed", 0)
    assert re.fullmatch(r"no progress in 6 runs since .* UTC: told to wait", row["error_message"])


@pytest.mark.parametrize("act", ["limited_and_kept", "limited_by_others"])
async def test_a_job_that_gets_on_or_waits_for_others_is_not_bounded(jobs, database_url, registry, act):
    """A checkpoint is progress, and so is a kept answer; a limit that many share is nobody's lack of it."""
    [job_id] = await jobs.ready(act=act)
    async with started_worker(database_url, registry, idle_runs=2, idle_time=timedelta(0)) as worker:
        for _ in range(6):
            await jobs.sql("UPDATE proving.plain_jobs SET due_at = NULL")
            await worker.run(await jobs.dispatched(count=0))

    assert (await jobs.actions(job_id)).count("snooze") == 6
    assert (await jobs.history(job_id))[-1].change_reason == "told to wait"


async def test_progress_starts_the_count_of_runs_again(jobs, database_url, registry):
    """So does a retry by a person."""
    [job_id] = await jobs.ready(act="rate_limited")
    async with started_worker(database_url, registry, idle_runs=3) as worker:
        for act in ("rate_limited", "rate_limited", "limited_and_kept", "rate_limited", "rate_limited"):
            await jobs.unguarded("UPDATE proving.plain_jobs SET due_at = NULL, act = %s", act)
            await worker.run(await jobs.dispatched(count=0))

    assert (await jobs.history(job_id))[-1].change_reason == "told to wait, no progress in this run"


async def test_an_unknown_exception_is_retried_until_nothing_is_left_and_then_kept(jobs, worker):
    """The job runs six times; the last error stays on it."""
    [job_id] = await jobs.ready(act="raise")
    for _ in range(6):
        await jobs.sql("UPDATE proving.plain_jobs SET due_at = NULL")
        await worker.run(await jobs.dispatched(count=0))

    row = await jobs.row(job_id)
    assert (row["status"], row["retry_count"], row["error_message"]) == ("failed", 5, "RuntimeError: told to raise")
    assert (await jobs.history(job_id))[-1].change_reason == "no attempts left: RuntimeError: told to raise"
    assert Counter(await jobs.actions(job_id)) == {"enqueue": 1, "claim": 6, "retry": 5, "fail": 1}


async def test_what_failed_once_may_go_well_the_next_time(jobs, worker):
    """The completed row has no error; the history keeps it."""
    [job_id] = await jobs.ready(act="flaky")
    for _ in range(2):
        await jobs.sql("UPDATE proving.plain_jobs SET due_at = NULL")
        await worker.run(await jobs.dispatched(count=0))

    row = await jobs.row(job_id)
    assert (row["status"], row["error_message"]) == ("completed", None)


async def test_one_bad_row_does_not_take_its_neighbours(jobs, worker):
    """In one batch, mostly in one commit, only the bad rows fail."""
    await jobs.ready(count=10)
    for act in ("bad_value", "bad_write", "nonsense", "write"):
        await jobs.ready(act=act)

    await worker.run(await jobs.dispatched(count=0))

    assert await jobs.count(act="complete", status="completed") == 10
    assert await jobs.count(act="write", status="completed", effects=1) == 1


async def test_both_steps_are_performed_one_after_the_other(jobs, worker):
    """Each step is performed by its own stage."""
    [ticket] = await jobs.dispatched("proving.first")
    await worker.run([ticket], "proving.first")
    await worker.run(await jobs.dispatched("proving.second", 0), "proving.second")

    assert (await jobs.row(ticket[0], "proving.first"))["status"] == "completed"


async def test_duplicate_stale_and_unmarked_tickets_run_nothing(jobs, worker):
    """Delivery is at least once, in any order."""
    [ticket] = await jobs.dispatched()
    [unmarked] = await jobs.ready()
    await worker.run([ticket])

    await worker.run([ticket, ticket, (ticket[0], 99), (unmarked, 1)])
    [again] = await jobs.dispatched(count=0)
    await worker.run([again, again])

    assert Counter(what for what, _ in worker.events.told) == {"started": 2, "complete": 2}
    assert worker.kernel.slots.free == worker.kernel.slots.count


async def test_never_more_jobs_than_slots(jobs, start_worker):
    """Several batches at once, each larger than the free slots: all jobs run, within the limit, and none starves."""
    worker = await start_worker(slots=3)
    tickets = await jobs.dispatched(count=40, seconds=0.01)

    await asyncio.gather(*(worker.accept(tickets[start : start + 10]) for start in range(0, 40, 10)))
    await worker.idle()

    now, most = 0, 0
    for what, _ in worker.events.told:
        now += 1 if what == "started" else -1
        most = max(most, now)
    assert most == 3
    assert await jobs.count(status="completed") == 40


async def test_a_full_worker_hands_tickets_back_after_a_short_wait(jobs, start_worker):
    """Another worker may be free: the tickets are dispatched again."""
    worker = await start_worker(slots=1)
    [long] = await jobs.dispatched(seconds=60)
    await worker.accept([long])
    [other] = await jobs.dispatched()

    await worker.accept([other])

    row = await jobs.row(other[0])
    assert (row["status"], row["dispatched_at"]) == ("pending", None)
    assert await jobs.dispatched(count=0) == [other]


async def test_a_passed_deadline_ends_the_run_for_one_attempt(jobs, worker):
    """The row has its own timeout; the handler is cancelled and the slot is free."""
    [job_id] = await jobs.ready(seconds=60)
    await jobs.sql("UPDATE proving.plain_jobs SET timeout_seconds = 1")

    await worker.run(await jobs.dispatched(count=0))

    row = await jobs.row(job_id)
    assert (row["status"], row["retry_count"], row["error_message"]) == ("pending", 1, "deadline of 1 s passed")


async def test_a_claim_whose_answer_was_lost_is_run_all_the_same(jobs, database_url, registry):
    """The connection broke after the commit of the claim: the jobs are ours, and this worker runs them."""
    async with wire_to(database_url) as (url, wire), started_worker(url, registry) as worker:
        tickets = await jobs.dispatched(count=3)
        wire.lose_answer(b"'claim'")

        await worker.run(tickets)

        assert wire.lost == 1
        assert await jobs.count(status="completed") == 3
        assert await jobs.actions(tickets[0][0]) == ["enqueue", "claim", "complete"]


async def test_logs_name_the_run_and_never_its_payload(jobs, worker):
    """Logs have stage, job, version and attempt."""
    tickets = await jobs.dispatched(act="raise", key="a private key")
    with capture_logs(processors=[]) as logs:
        await worker.run(tickets)

    assert "a private key" not in str(logs)
    assert [line["error"] for line in logs if line["event"] == "handler_raised"] == ["RuntimeError: told to raise"]


async def test_a_handler_is_given_its_run_a_clock_short_sessions_and_progress(jobs, database_url, perform):
    """The handler uses the whole context with the real database."""
    seen: dict[str, Any] = {}

    @perform
    async def handler(job, ctx):
        async with ctx.session() as session:
            await session.execute(text("UPDATE proving.plain_jobs SET key = 'seen' WHERE id = :id"), {"id": job.id})
        await ctx.progress(40)
        seen.update(run=ctx.run, clock=ctx.clock(), row=await jobs.row(job.id))
        await ctx.progress(400)
        seen["later"] = (await jobs.row(job.id))["progress"]
        return Complete()

    async with started_worker(database_url, perform.registry) as worker:
        [ticket] = await jobs.dispatched()
        await worker.run([ticket])

    assert (seen["run"].job_id, seen["run"].version, seen["run"].attempt) == (ticket[0], 2, 1)
    assert abs(seen["clock"] - datetime.now(UTC)) < timedelta(minutes=1)
    assert (seen["row"]["key"], seen["row"]["progress"], seen["later"]) == ("seen", 40, 99)


async def test_a_handler_that_exits_fails_its_job_and_not_the_process(jobs, database_url, perform):
    """A library may call ``sys.exit``; other jobs go on."""

    @perform
    async def handler(job, ctx):
        if job.act == "exit":
            raise SystemExit(2)
        await asyncio.sleep(0.1)
        return Complete()

    async with started_worker(database_url, perform.registry) as worker:
        await jobs.ready(act="exit")
        await jobs.ready()
        await worker.run(await jobs.dispatched(count=0))

    assert await jobs.count(act="exit", status="pending", error_message="SystemExit: 2") == 1
    assert await jobs.count(status="completed") == 1


async def test_a_run_whose_time_ends_while_it_waits_for_its_turn_gives_its_job_back(jobs, database_url, perform):
    """Its time has not begun: no attempt is spent, and the reason names what it waited for."""

    @perform
    async def handler(job: Any, ctx: Any) -> Complete:
        with waiting_for_turn("requests per minute of provider p"):
            await asyncio.sleep(60)
        return Complete()

    [job_id] = await jobs.ready()
    await jobs.sql("UPDATE proving.plain_jobs SET timeout_seconds = 1")
    async with started_worker(database_url, perform.registry) as worker:
        await worker.run(await jobs.dispatched(count=0))

    row = await jobs.row(job_id)
    assert (row["status"], row["retry_count"]) == ("pending", 0)
    assert (await jobs.history(job_id))[
        -1
    ].change_reason == "waited 1 s for its turn: requests per minute of provider p"
