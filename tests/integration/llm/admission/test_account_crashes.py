"""Workers die while they admit, make, record and settle calls: the totals stay the sum of the ledger.

``CRASH_RUNS=100`` runs more of them, ``CRASH_SEED`` other ones.
"""

import asyncio
import os
import random
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from gristmill_testing.waiting import until
from tests.chaos.spend import ROWS, Row, judge_spend
from tests.e2e.crashes import ACCOUNTING
from tests.support.admission import Rows
from tests.support.admitted import PROVIDER, admitted_mill
from tests.support.fakes.openai_server import FakeOpenAI
from tests.support.kernel import Jobs
from tests.support.paths import ROOT
from workers.runtime.failpoints import EXIT_CODE, VARIABLE, Point
from workers.runtime.handler.registry import Registry

RUNS = int(os.environ.get("CRASH_RUNS", "6"))
SEED = int(os.environ.get("CRASH_SEED", "14"))
# Scoring settles without writes of its own: `settle.after` is not on its way, `commit.after` is.
POINTS: tuple[Point, ...] = (*ACCOUNTING, "settle.before", "commit.after")
MAX_ARRIVALS = 4
# So many jobs wait at any time, so that each point is reached.
BACKLOG = 12
MAX_LIFE_SECONDS = 60
SCORING = "scoring.score"
ANSWERS = [
    {"kind": "answer", "weight": 6},
    {"kind": "answer", "delay_ms": 50, "weight": 6},
    {"kind": "malformed"},
    {"kind": "disconnect"},
    {"kind": "status", "status": 500},
]
WAITING = "SELECT count(*)::int AS n FROM scoring.scoring_jobs WHERE completed_at IS NULL"
READY = "SELECT count(*)::int AS n FROM scoring.scoring_jobs WHERE status = 'pending'"
PROFILE = "INSERT INTO scoring.profiles (name) VALUES ('p') RETURNING id::text"
COUNTS = "SELECT limit_id, subject, bucket, amount FROM llm.window_counts WHERE amount <> 0 ORDER BY 1, 2, 3"
AT_ONCE_DUE = "UPDATE scoring.scoring_jobs SET due_at = NULL, dispatched_at = NULL WHERE status = 'pending'"


@pytest.fixture
def fake() -> Iterator[FakeOpenAI]:
    """A provider some of whose answers are of no use, or never come."""
    with FakeOpenAI() as fake:
        fake.script(mix=ANSWERS, seed=SEED)
        yield fake


@pytest.fixture
def limited(rows: Rows) -> Rows:
    """Limits that keep calls back, limits that only count, budgets of every unit and window."""
    rows.limit("concurrency", 3, None, provider=PROVIDER)
    rows.limit("requests", 40, 1, provider=PROVIDER)
    rows.limit("tokens", 10**9, 3_600)
    rows.budget("day", usd=1_000)
    rows.budget("total", tokens=10**12, window="total")
    rows.budget("stage", usd=1_000, scope="stage", scope_value=SCORING, zone="Asia/Tokyo")
    return rows


async def keep_busy(jobs: Jobs) -> None:
    """Keep a backlog of scoring jobs, none of which waits for a back-off."""
    questions = 0
    [profile] = await jobs.sql(PROFILE)
    while True:
        [ready] = await jobs.sql(READY)
        for _ in range(BACKLOG - ready["n"]):
            questions += 1
            await jobs.ready(SCORING, profile_id=profile["id"], prompt=f"Judge. Question {questions}")
        await jobs.unguarded(f"{AT_ONCE_DUE} AND due_at IS NOT NULL")
        await asyncio.sleep(0.1)


async def crash(url: str, fake: FakeOpenAI, point: Point, nth: int) -> None:
    """Run a worker process until it has died at its ``nth`` arrival at ``point``."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.admitted", url, fake.url,
        cwd=ROOT,
        env={**os.environ, VARIABLE: f"{point}:{nth}"},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        _, said = await asyncio.wait_for(process.communicate(), MAX_LIFE_SECONDS)
        assert process.returncode == EXIT_CODE, said.decode()[-2_000:]
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def bury(rows: Rows, jobs: Jobs) -> None:
    """Let the leases of the dead end, and give up what they reserved, as maintenance does."""
    rows.ask("UPDATE runtime.workers SET heartbeat_at = now() - interval '2 hours'")
    await jobs.unguarded(AT_ONCE_DUE)
    while rows.ask("SELECT llm.orphan_calls(p_grace => '0') AS n")[0]["n"]:
        pass


def broken_rules(rows: Rows, fake: FakeOpenAI) -> dict[str, Any]:
    """Return the rules about the ledger and the provider's log that do not hold."""
    ledger = [Row(*row.values()) for row in rows.ask(ROWS)]
    return {one.rule: one.wrong for one in judge_spend(fake.ledger, ledger) if one.wrong}


async def test_crashes_at_every_step_of_a_call_leave_totals_that_are_the_sum_of_the_ledger(
    limited: Rows, jobs: Jobs, registry: Registry, database_url: str, fake: FakeOpenAI
) -> None:
    """After each crash, with what the dead worker holds and without; each call of the provider has its row."""
    draw = random.Random(SEED)
    crashed: Counter[str] = Counter()
    orphans = 0
    busy = asyncio.create_task(keep_busy(jobs))
    try:
        for run in range(RUNS):
            point = POINTS[run % len(POINTS)] if 2 * len(POINTS) > RUNS else draw.choice(POINTS)
            await crash(database_url, fake, point, draw.randint(1, MAX_ARRIVALS))
            crashed[point] += 1
            assert limited.differences() == [], (run, point)
            before = limited.states().get("orphaned", 0)
            await bury(limited, jobs)
            orphans += limited.states().get("orphaned", 0) - before
            assert limited.differences() == [], (run, point)
    finally:
        busy.cancel()
    async with admitted_mill(database_url, registry, fake.url):

        async def all_ended() -> bool:
            await jobs.unguarded(f"{AT_ONCE_DUE} AND due_at IS NOT NULL")
            [left] = await jobs.sql(WAITING)
            return not left["n"]

        await until(all_ended, within=60)
    await bury(limited, jobs)

    assert limited.differences() == []
    assert broken_rules(limited, fake) == {}
    assert limited.totals()["day"]["reserved_usd"] == 0
    counted = limited.ask(COUNTS)
    limited.ask("SELECT llm.recount_limit(l) FROM llm.limits AS l WHERE window_seconds IS NULL OR window_seconds > 60")
    assert limited.ask(COUNTS) == counted
    assert orphans > 0, "no worker died with a reservation: nothing was proved"
    figures = f"{dict(crashed)}, {orphans} orphans, {limited.states()}, {fake.calls} calls"
    sys.stdout.write(f"\n{sum(crashed.values())} crashes {figures}\n")
