"""Plant bugs in the admission and the ledger of calls, run two workers, and let the checker find them.

The same runs without a bug pass.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from itertools import cycle
from typing import Any
from uuid import UUID

import pytest

from gristmill_testing.waiting import until
from tests.chaos import bugs
from tests.chaos.bugs import Bug, SqlBug
from tests.chaos.checker import CheckReport
from tests.chaos.rehearsal import Rehearsal, rehearsing
from tests.support.admission import PriceList
from tests.support.admitted import PROVIDER, admitted_model
from tests.support.fakes.openai_server import FakeOpenAI
from tests.support.fakes.road import FakeRoad
from tests.support.kernel import dispatching
from workers.llm.admission.postgres_admission import PostgresAdmission
from workers.llm.calls import Call, Caller
from workers.runtime.database import Database
from workers.runtime.handler.registry import Registry
from workers.runtime.handler.resources import Resources

SCORING = "scoring.score"
WORKERS = [UUID(int=1), UUID(int=2)]
DOOMED = UUID(int=3)
# A timeout that a complete answer never needs and a slow one (``drip``) exceeds.
TIMEOUT_SECONDS = 3.0
WINDOW_SECONDS, REQUESTS, AT_ONCE = 3, 6, 3
LIMITS = """
INSERT INTO llm.limits (provider, measure, at_most, window_seconds)
VALUES (%s, 'requests', %s, %s), (%s, 'concurrency', %s, NULL)"""
BUDGET = """
INSERT INTO llm.budgets (name, scope, scope_value, "window", usd, tokens, "then")
VALUES ('all', 'all', NULL, 'day', 1000, 1000000000, 'stop'),
       ('of the stage', 'stage', 'scoring.score', 'total', NULL, %s, 'stop')"""
REFUSED = "SELECT 1 FROM llm.budget_warnings WHERE threshold = 1"
SETTLE_AGAIN = """
SELECT llm.settle_calls(%s::jsonb, (
  SELECT jsonb_agg(jsonb_build_object('id', id, 'as', 'settled', 'input', input_tokens, 'output', output_tokens))
    FROM llm.calls WHERE state = 'settled'))"""
PLENTY = 1_000_000_000

Scenario = Callable[[Rehearsal, FakeOpenAI], Awaitable[CheckReport]]


async def limited_calls(run: Rehearsal, fake: FakeOpenAI) -> CheckReport:
    """Two workers ask more than a rate and a concurrency allow; one answer is invalid, one is cut off."""
    fake.script(queue=[{"kind": "drip"}, {"kind": "malformed"}], default={"kind": "answer", "delay_ms": 100})
    await run.jobs.sql(LIMITS, PROVIDER, REQUESTS, WINDOW_SECONDS, PROVIDER, AT_ONCE)
    await run.jobs.sql(BUDGET, PLENTY)
    async with two_workers(run, fake):
        await ask(run, 2 * REQUESTS)
        await run.settled(stage=SCORING, within=60)
    return await judged(run, fake)


async def spent_budget(run: Rehearsal, fake: FakeOpenAI) -> CheckReport:
    """Two workers ask for more than a budget has, until an operator raises it."""
    fake.script(default={"kind": "answer", "delay_ms": 300})
    await run.jobs.sql(BUDGET, PLENTY)
    async with two_workers(run, fake):
        await ask(run, 1)
        await run.settled(stage=SCORING)
        [one] = await run.jobs.sql("SELECT estimated_input + max_output AS tokens FROM llm.calls")
        tokens = one["tokens"] * 3
        await run.jobs.sql("UPDATE llm.budgets SET tokens = %s WHERE scope = 'stage'", tokens)
        await ask(run, 8)

        async def refused_or_ended() -> bool:
            left = "SELECT 1 FROM scoring.scoring_jobs WHERE completed_at IS NULL"
            return bool(await run.jobs.sql(REFUSED)) or not await run.jobs.sql(left)

        await until(refused_or_ended, within=30)
        run.evidence.raised["of the stage"] = (time.time(), tokens)
        await run.jobs.sql("UPDATE llm.budgets SET tokens = %s WHERE scope = 'stage'", PLENTY)
        await run.settled(stage=SCORING, within=60)
    return await judged(run, fake)


async def vanished_worker(run: Rehearsal, fake: FakeOpenAI) -> CheckReport:
    """A worker reserves a call and vanishes; maintenance gives the reservation up; then the call is settled twice."""
    await run.jobs.sql(BUDGET, PLENTY)
    async with two_workers(run, fake):
        await ask(run, 2)
        await run.settled(stage=SCORING)
    database = Database(run.url, changed_by="worker:doomed")
    lost = PostgresAdmission(database, DOOMED, PriceList())
    call = Call(caller=Caller(stage=SCORING), kind="chat", provider=PROVIDER, model="m", route="r", input_tokens=9)
    await lost.reserve(call)
    await database.close()
    await run.jobs.sql("SELECT llm.orphan_calls(p_grace => '0')")
    await run.jobs.sql(SETTLE_AGAIN, f'[{{"provider": "{PROVIDER}", "stage": "{SCORING}", "lane": "normal"}}]')
    return await judged(run, fake)


async def ask(run: Rehearsal, count: int) -> None:
    """Enqueue scoring jobs that ask different questions."""
    rows = await run.jobs.sql(
        "INSERT INTO scoring.profiles (name) SELECT 'p' || n FROM generate_series(1, %s) AS n RETURNING id::text", count
    )
    for row in rows:
        await run.enqueue(SCORING, profile_id=row["id"], prompt="Judge.")


async def judged(run: Rehearsal, fake: FakeOpenAI) -> CheckReport:
    run.evidence.calls, run.evidence.requests = fake.ledger, fake.calls
    return await run.judge()


@asynccontextmanager
async def two_workers(run: Rehearsal, fake: FakeOpenAI) -> AsyncIterator[None]:
    """Run two workers, with one admission each, that get the jobs in turn."""
    async with AsyncExitStack() as stack:
        workers = []
        for worker_id in WORKERS:
            database = Database(run.url, changed_by=f"worker:{worker_id}")
            stack.push_async_callback(database.close)
            model = await stack.enter_async_context(
                admitted_model(database, fake.url, worker_id=worker_id, timeout=TIMEOUT_SECONDS)
            )
            workers.append(await run.worker(lease_seconds=30.0, queues=["scoring"], resources=Resources(llm=model)))
        turns = cycle(workers)

        async def deliver(stage: str, tickets: Any) -> None:
            for ticket in tickets:
                await next(turns).accept([ticket], stage)

        await stack.enter_async_context(dispatching(run.url, run.registry, FakeRoad(deliver)))
        yield
        await asyncio.gather(*(worker.idle() for worker in workers))


@pytest.fixture
async def run(database_url: str, registry: Registry) -> AsyncIterator[Rehearsal]:
    async with rehearsing(database_url, registry) as run:
        yield run


@pytest.fixture
def fake() -> Any:
    with FakeOpenAI() as fake:
        yield fake


FOUND: list[tuple[str, Scenario, Bug | SqlBug, Sequence[str]]] = [
    (
        "limit ignored by one worker",
        limited_calls,
        bugs.unlimited(WORKERS[1]),
        ["reservations within their limits", "calls within their rate"],
    ),
    (
        "bucket that expires early",
        limited_calls,
        bugs.BUCKETS_EXPIRE_EARLY,
        ["reservations within their limits"],
    ),
    ("limit off by one", limited_calls, bugs.LIMIT_OFF_BY_ONE, ["reservations within their limits"]),
    (
        "call made without a reservation",
        limited_calls,
        bugs.NOT_RESERVED,
        ["every call was reserved", "every paid call is charged", "calls within their rate"],
    ),
    ("answer that is cut off is free", limited_calls, bugs.CUT_OFF_IS_FREE, ["every paid call is charged"]),
    ("usage is ignored", limited_calls, bugs.USAGE_IGNORED, ["charged as the provider counts"]),
    ("orphan that is not counted", limited_calls, bugs.ORPHAN_NOT_COUNTED, ["totals are the sum of the ledger"]),
    ("settle that adds twice", limited_calls, bugs.SPENT_TWICE, ["totals are the sum of the ledger"]),
    ("total that is not updated", limited_calls, bugs.TOTAL_NOT_UPDATED, ["totals are the sum of the ledger"]),
    ("call that settles again", vanished_worker, bugs.SETTLED_AGAIN, ["totals are the sum of the ledger"]),
    ("reservation of the dead is kept", vanished_worker, bugs.ORPHAN_KEPT, ["reservations end"]),
    ("budget that stops nobody", spent_budget, bugs.BUDGET_IGNORED, ["no budget is overspent"]),
    ("reservations count for no budget", spent_budget, bugs.RESERVED_IGNORED, ["no budget is overspent"]),
]


@pytest.mark.parametrize("scenario", [limited_calls, spent_budget, vanished_worker], ids=lambda one: one.__name__)
async def test_run_without_a_bug_passes(run: Rehearsal, fake: FakeOpenAI, scenario: Scenario) -> None:
    """So the violations that are found below come from the bug."""
    report = await scenario(run, fake)

    assert report.ok, report.render()


@pytest.mark.parametrize("found", FOUND, ids=[name for name, *_ in FOUND])
async def test_planted_bug_is_found_by_its_rules(
    run: Rehearsal,
    fake: FakeOpenAI,
    monkeypatch: pytest.MonkeyPatch,
    found: tuple[str, Scenario, Bug | SqlBug, Sequence[str]],
) -> None:
    """The same run with the bug breaks the rules for that bug."""
    _, scenario, planted, rules = found
    with ExitStack() as stack:
        if isinstance(planted, SqlBug):
            stack.enter_context(planted.planted(run.url))
        else:
            planted.plant(monkeypatch)

        report = await scenario(run, fake)

    assert set(rules) <= set(report.failed), report.render()
