"""Plant one bug of each class in the kernel, run it, and let the checker find it.

The same runs without a bug pass, so the checker finds the bug and nothing else.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from structlog.testing import capture_logs

from gristmill_testing.mill import Heard
from gristmill_testing.waiting import until
from tests.chaos import bugs
from tests.chaos.bugs import Bug
from tests.chaos.checker import CheckReport
from tests.chaos.rehearsal import KEYED, LEASE_SECONDS, Gates, Rehearsal, rehearsing
from tests.support.admitted import admitted_mill
from tests.support.fakes.openai_server import FakeOpenAI
from tests.support.kernel import PLAIN
from workers.runtime.handler.registry import Registry
from workers.runtime.store import dispatch

SCORING = "scoring.score"
ONE_SETTLE = b'"change_action" = u.action'  # in the settling statement, and in no other


# ── runs ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

Scenario = Callable[[Rehearsal, Gates], Awaitable[CheckReport]]


async def frozen_worker(run: Rehearsal, gates: Gates) -> CheckReport:
    """A worker freezes during a job, another one runs it, and the first one continues before the other is done."""
    await run.enqueue(act="write")
    first = await run.worker(lease_seconds=LEASE_SECONDS)
    await run.deliver(first)
    await run.freeze(first)
    await until(run.rescue)
    second = await run.worker(lease_seconds=30.0)
    await run.deliver(second)
    gates.first.set()
    await first.idle()
    async with run.guard(PLAIN):
        gates.later.set()
        await second.idle()
    return await run.judge()


async def busy_worker(run: Rehearsal, gates: Gates) -> CheckReport:
    """The leader rescues while a living worker runs a job."""
    await run.enqueue(act="write")
    worker = await run.worker(lease_seconds=30.0)
    await run.deliver(worker)
    await run.rescue()
    gates.first.set()
    gates.later.set()
    await worker.idle()
    await run.deliver(worker)
    await worker.idle()
    return await run.judge(lease=timedelta(seconds=30))


async def forged_tickets(run: Rehearsal, gates: Gates) -> CheckReport:
    """Three of five jobs of one key get a ticket, but messages arrive for all five."""
    tickets = [(job, 1) for job in await run.enqueue(KEYED, 5, key="a")]
    worker = await run.worker()
    await run.jobs.dispatched(KEYED, 0)
    await worker.accept(tickets, KEYED)
    gates.first.set()
    await worker.idle()
    await run.deliver(worker, KEYED)
    await worker.idle()
    return await run.judge()


async def crowded_key(run: Rehearsal, gates: Gates) -> CheckReport:
    """Five jobs of one key are dispatched within its limit."""
    await run.enqueue(KEYED, 5, key="a")
    worker = await run.worker()
    await run.deliver(worker, KEYED)
    gates.first.set()
    await worker.idle()
    await run.deliver(worker, KEYED)
    await worker.idle()
    return await run.judge()


async def two_beats(run: Rehearsal, gates: Gates) -> CheckReport:
    """Two beats see the same three due ticks at the same moment; two of the policies fire only some of them."""
    gates.first.set()
    for catch_up in ("all", "one"):
        await run.schedule(catch_up)
    # Even the newest time of this schedule is too old for `skip`.
    await run.schedule("skip", cron=f"{datetime.now(UTC) - timedelta(minutes=2):%M} * * * *")
    await run.beats()
    worker = await run.worker()
    await run.deliver(worker)
    await worker.idle()
    return await run.judge()


async def cancelled_run(run: Rehearsal, gates: Gates) -> CheckReport:
    """A job is cancelled while it runs, a moment before its handler ends."""
    (job,) = await run.enqueue(act="write")
    worker = await run.worker()
    await run.deliver(worker)
    await run.cancel(job)
    gates.first.set()
    await worker.idle()
    return await run.judge()


async def cancelled_caller(run: Rehearsal, gates: Gates) -> CheckReport:
    """A scoring job is cancelled during its first call; the answer is invalid and would cause a second call."""
    async with scoring(run, {"kind": "malformed", "delay_ms": 3_000}) as (fake, heard, order):
        (job,) = await run.enqueue(SCORING, **order)
        await until(lambda: fake.calls == 1)
        await run.cancel(job, stage=SCORING)
        await until(lambda: heard.events[-1][0] == "stopped" or fake.calls == 2)
    return await run.judge(grace=timedelta(seconds=0.5))


async def asked_again(run: Rehearsal, gates: Gates) -> CheckReport:
    """The first call of a scoring job fails. Its second attempt gets an invalid answer and asks once more."""
    async with scoring(run, {"kind": "status", "status": 500}, {"kind": "malformed"}) as (_, _, order):
        await run.enqueue(SCORING, **order)
        await run.settled(stage=SCORING)
    return await run.judge()


@asynccontextmanager
async def scoring(run: Rehearsal, *answers: dict[str, Any]) -> AsyncIterator[tuple[FakeOpenAI, Heard, dict[str, Any]]]:
    """Run a mill that scores with a provider that gives these answers first; record its calls as evidence."""
    (row,) = await run.jobs.sql("INSERT INTO scoring.profiles (name) VALUES ('a') RETURNING id::text AS profile_id")
    with FakeOpenAI() as fake:
        fake.script(queue=list(answers))
        async with admitted_mill(run.url, run.registry, fake.url) as heard:
            yield fake, heard, {"prompt": "Judge.", **row}
        run.evidence.calls, run.evidence.requests = fake.ledger, fake.calls
    run.mill_lost_runs = heard.lost


async def lost_answer(run: Rehearsal, gates: Gates) -> CheckReport:
    """The outcome of a worker is committed, and the connection breaks before the answer arrives."""
    await run.enqueue()
    url, wire = await run.wire()
    worker = await run.worker(url=url)
    await run.deliver(worker)
    wire.lose_answer(ONE_SETTLE)
    gates.first.set()
    await worker.idle()
    assert wire.lost == 1
    return await run.judge()


async def old_and_young(run: Rehearsal, gates: Gates) -> CheckReport:
    """Maintenance prunes when two jobs have ended, one of them long ago, and one waits."""
    gates.first.set()
    await run.enqueue(due_at="2999-01-01T00:00:00Z")
    old, _ = await run.enqueue(count=2)
    worker = await run.worker()
    await run.deliver(worker)
    await worker.idle()
    await run.prune(old)
    return await run.judge()


async def lost_message(run: Rehearsal, gates: Gates) -> CheckReport:
    """A message is lost; the leader takes the tickets back and dispatches again."""
    gates.first.set()
    await run.enqueue(count=3)
    worker = await run.worker()
    await run.jobs.dispatched(PLAIN, 0)
    async with run.database.kernel() as conn:
        await dispatch.unmark(conn, run.registry[PLAIN], older_than=timedelta(0))
    await run.deliver(worker)
    await worker.idle()
    return await run.judge()


@pytest.fixture
async def gates() -> Gates:
    return Gates()


@pytest.fixture
async def run(
    database_url: str, registry: Registry, gates: Gates, request: pytest.FixtureRequest
) -> AsyncIterator[Rehearsal]:
    """A rehearsal with proving handlers that wait at the gates; the gates always open before it ends."""
    stages = gates.registry()
    stages.add(registry[SCORING])
    async with rehearsing(database_url, stages) as run:
        yield run
        gates.first.set()
        gates.later.set()


# ── what must be found ───────────────────────────────────────────────────────────────────────────────────────────────

FOUND: list[tuple[str, Scenario, tuple[Bug, ...], str]] = [
    ("settle without its fence", frozen_worker, (bugs.NO_FENCE,), "runs settled by their claimant"),
    ("write outside the settle's transaction", frozen_worker, (bugs.WRITTEN_APART,), "effects committed once"),
    ("rescue that costs no attempt", frozen_worker, (bugs.RESCUE_FREE,), "attempts counted"),
    ("rescue of a living worker", busy_worker, (bugs.LIVING_RESCUED,), "only the silent are rescued"),
    ("limit off by one", crowded_key, (bugs.ONE_TOO_MANY,), "running per key within its limit"),
    ("tick fired twice", two_beats, (bugs.TICK_IGNORED, bugs.TICK_KEY_OWN), "one job per tick"),
    ("policy one fires all missed ticks", two_beats, (bugs.ONE_AS_ALL,), "ticks at their times"),
    ("policy skip fires all missed ticks", two_beats, (bugs.SKIP_AS_ALL,), "ticks at their times"),
    ("policy skip fires one missed tick", two_beats, (bugs.SKIP_AS_ONE,), "ticks at their times"),
    ("cancel that does not change the fence", cancelled_run, (bugs.CANCEL_UNFENCED,), "cancelled stays cancelled"),
    ("cancel that no run learns of", cancelled_caller, (bugs.CANCEL_IGNORED,), "no call after a cancel"),
    ("no second look after a lost answer", lost_answer, (bugs.NO_SECOND_LOOK,), "runs called lost were lost, once"),
    ("lost run that is not logged", frozen_worker, (bugs.LOSS_NOT_LOGGED,), "lost runs were called lost"),
    ("call with a new key on each attempt", asked_again, (bugs.NEW_KEY_EACH_TIME,), "a repeated request keeps its key"),
    ("call that names no job", asked_again, (bugs.KEY_WITHOUT_JOB,), "every call names its job"),
    ("one key for all of a job's requests", asked_again, (bugs.KEY_OF_THE_JOB,), "a key names one request"),
    ("prune without retention", old_and_young, (bugs.PRUNE_YOUNG,), "prune removed only the old and ended"),
    ("prune of waiting jobs", old_and_young, (bugs.PRUNE_WAITING,), "committed jobs exist"),
    ("message acknowledged and forgotten", crowded_key, (bugs.CLAIM_FORGOTTEN,), "no job stands still"),
    ("outcome acknowledged and forgotten", crowded_key, (bugs.SETTLE_FORGOTTEN,), "no job stands still"),
    ("ticket of a lost message kept", lost_message, (bugs.TICKETS_KEPT,), "no job stands still"),
]
SCENARIOS = list(dict.fromkeys(scenario for _, scenario, _, _ in FOUND))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_run_without_a_bug_passes(run: Rehearsal, gates: Gates, scenario: Scenario) -> None:
    """So the violations that are found below come from the bug."""
    report = await scenario(run, gates)

    assert report.ok, report.render()


@pytest.mark.parametrize("found", FOUND, ids=[name for name, *_ in FOUND])
async def test_planted_bug_is_found_by_its_rule(
    run: Rehearsal,
    gates: Gates,
    monkeypatch: pytest.MonkeyPatch,
    found: tuple[str, Scenario, tuple[Bug, ...], str],
) -> None:
    """The same run with the bug breaks the rule for that bug."""
    _, scenario, planted, rule = found
    for bug in planted:
        bug.plant(monkeypatch)

    report = await scenario(run, gates)

    assert rule in report.failed, report.render()


# ── what the database refuses by itself ──────────────────────────────────────────────────────────────────────────────

REFUSED: list[tuple[str, Scenario, Bug, str]] = [
    ("rescue without a new version", frozen_worker, bugs.RESCUE_UNVERSIONED, "versions gapless"),
    ("cancel without a new version", cancelled_run, bugs.CANCEL_UNVERSIONED, "cancelled stays cancelled"),
]


@pytest.mark.parametrize("refused", REFUSED, ids=[name for name, *_ in REFUSED])
async def test_bug_that_the_trigger_refuses_is_found_without_it_too(
    run: Rehearsal, gates: Gates, monkeypatch: pytest.MonkeyPatch, refused: tuple[str, Scenario, Bug, str]
) -> None:
    """The guard of the table refuses the statement. Without the guard, the checker finds the bug."""
    _, scenario, bug, rule = refused
    bug.plant(monkeypatch)

    with pytest.raises(psycopg.errors.CheckViolation, match="its version must grow by one"):
        await scenario(run, gates)
    run.guarded = False
    report = await scenario(run, gates)

    assert rule in report.failed, report.render()


async def test_claim_without_ticket_is_refused_by_the_trigger(
    run: Rehearsal, gates: Gates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the claim does not check the ticket, the guard of the table does, so the limit holds."""
    bugs.NO_TICKET.plant(monkeypatch)

    with capture_logs() as logs:
        report = await forged_tickets(run, gates)

    refused = [log["error"] for log in logs if log["event"] == "job_cannot_be_claimed"]
    assert refused
    assert all("it has no ticket" in error for error in refused)
    assert not report.failed, report.render()


async def test_second_end_is_refused_by_the_trigger_and_found_without_it(
    run: Rehearsal, gates: Gates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the settle checks neither fence nor state, the guard protects ended jobs. Without it, the checker finds it."""
    bugs.NO_STATE.plant(monkeypatch)

    with capture_logs() as logs:
        await frozen_worker(run, gates)
    run.guarded = False
    gates.close()
    report = await frozen_worker(run, gates)

    refusals = ("completed is final", "its retry_count grows by one or not at all")
    assert any(refusal in entry.get("error", "") for entry in logs for refusal in refusals)
    assert "rows are where their history ends" in report.failed, report.render()


async def test_tick_that_ignores_its_row_is_held_by_its_key(
    run: Rehearsal, gates: Gates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row of a tick prevents a second tick. If it is ignored, the idempotency key of the job prevents it."""
    bugs.TICK_IGNORED.plant(monkeypatch)

    report = await two_beats(run, gates)

    assert report.ok, report.render()
