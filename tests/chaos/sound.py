"""One correct run with a case of everything, for tests that damage its history and run the checker."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg

from gristmill_testing.waiting import until
from tests.chaos import following
from tests.chaos.checker import CheckReport, check
from tests.chaos.evidence import Evidence, Message, Stream
from tests.chaos.rehearsal import LEASE_SECONDS, Rehearsal, rehearsing
from tests.support.admitted import admitted_mill
from tests.support.fakes.openai_server import FakeOpenAI
from workers.runtime.handler.registry import Registry

SCORING = "scoring.score"
OPERATOR, TENANT = "of an operator", "of a tenant"
Reader = psycopg.AsyncConnection[Any]
LIMITS = """
INSERT INTO llm.limits (provider, measure, at_most, window_seconds)
VALUES ('environment', 'requests', 4, 3600), ('environment', 'tokens', 1000000, 3600),
       ('environment', 'concurrency', 2, NULL)"""
BUDGETS = """
INSERT INTO llm.budgets (name, scope, "window", usd, tokens, "then")
VALUES ('all', 'all', 'total', 1000, 1000000, 'stop'), ('day', 'all', 'day', 1000, NULL, 'stop')"""
A_MINUTE_BEFORE = b"""
UPDATE runtime.transitions SET created_at = created_at - interval '1 minute' WHERE job_id = %s AND version_to < %s"""


@dataclass(frozen=True, slots=True)
class SoundRun:
    """The correct run: its database, its evidence, and its jobs by the name of their case."""

    url: str
    evidence: Evidence
    jobs: dict[str, UUID]


async def sound_run(url: str, registry: Registry, fake: FakeOpenAI) -> SoundRun:
    """Let every case happen once: effects, retries, snoozes, a rescue, cancels, ticks, steps, limits, calls."""
    async with rehearsing(url, registry) as run:
        jobs = await asked(run, fake)
        (jobs["rescued"],) = await run.enqueue(act="write")
        await run.claim_and_vanish()
        worker = await run.worker()
        await run.dispatcher(worker)
        (jobs["waiting"], jobs["unwanted"]) = await run.enqueue(count=2, due_at="2999-01-01T00:00:00Z")
        for name, act in {"done": "write", "retried": "flaky", "snoozed": "snooze", "failed": "fail"}.items():
            (jobs[name],) = await run.enqueue(act=act)
        (jobs["pruned"],) = await run.enqueue()
        (jobs["stopped"],) = await run.enqueue(seconds=30.0)
        (jobs["two_step"],) = await run.enqueue("proving.first", act="write")
        (jobs["keyed"], *_) = await run.enqueue("proving.keyed", 8, act="write", seconds=0.05, key="a")
        await until(lambda: "started" in worker.events.of(jobs["stopped"]))
        await run.cancel(jobs["stopped"], jobs["unwanted"])
        for catch_up in ("all", "one", "skip"):
            await run.schedule(catch_up)
        await run.beats()
        for stage in ("proving.plain", "proving.first", "proving.keyed"):
            await run.settled(stage=stage)
        await run.retry(jobs["failed"])
        await run.settled()
        await run.jobs.sql("UPDATE proving.plain_jobs SET max_retries = 1 WHERE id = %s", jobs["failed"])
        await run.retry(jobs["failed"])  # this grants one more attempt
        await run.settled()
        await until(lambda: worker.events.of(jobs["stopped"])[-1] == "stopped")
        await run.prune(jobs["pruned"])
        run.evidence.calls, run.evidence.requests = fake.ledger, fake.calls
        run.record_lost_runs()
        await record_what_was_told(run, jobs["done"])
        return SoundRun(url, run.evidence, jobs)


async def asked(run: Rehearsal, fake: FakeOpenAI) -> dict[str, UUID]:
    """Cancel a job during a call that hangs; score one profile, with two repeated calls before the answer."""
    fake.script(queue=[{"kind": "hang"}, {"kind": "status", "status": 500}, {"kind": "malformed"}])
    ((profile,),) = [
        row.values() for row in await run.jobs.sql("INSERT INTO scoring.profiles (name) VALUES ('a') RETURNING id")
    ]
    await run.jobs.sql(LIMITS)
    await run.jobs.sql(BUDGETS)
    async with admitted_mill(run.url, run.registry, fake.url) as heard:
        (hung,) = await run.enqueue(SCORING, profile_id=str(profile), prompt="Judge.")
        await until(lambda: fake.calls == 1)
        await run.cancel(hung, stage=SCORING)
        (scored,) = await run.enqueue(SCORING, profile_id=str(profile), prompt="Judge again.")
        await run.settled(stage=SCORING)
    run.mill_lost_runs += heard.lost
    return {"hung": hung, "scored": scored}


async def record_what_was_told(run: Rehearsal, told: UUID) -> None:
    """Record the callback of one job, and the streams of its tenant and of an operator, as clients would get them."""
    evidence = run.evidence
    (end,) = await run.jobs.sql(following.ENDS.replace("%(ids)s", "%s"), [told])
    rows = await run.jobs.sql(following.VERSIONS.replace("%(ids)s", "%s"), list(evidence.committed))
    versions = [(row["job_id"], row["version_to"]) for row in rows]
    evidence.with_callback = {told}
    evidence.messages = [
        Message(
            job_id=told,
            id="msg_1",
            state=end["new_state"],
            version=end["version_to"],
            is_signed=True,
            is_accepted=True,
        )
    ]
    evidence.streams = {
        OPERATOR: Stream(shown=versions),
        TENANT: Stream(shown=[one for one in versions if one[0] == told], owned={told}),
    }


async def judge(reader: Reader, evidence: Evidence, **options: Any) -> CheckReport:
    options = {"lease": timedelta(seconds=LEASE_SECONDS), "log_lost_run_within": timedelta(0), **options}
    return await check(reader, evidence, **options)


def changed(left: SoundRun, change: Callable[[Evidence], Any]) -> Evidence:
    """Return a copy of the evidence of the run with one change."""
    evidence = copy.deepcopy(left.evidence)
    change(evidence)
    return evidence


async def claimed(reader: Reader, job: UUID) -> tuple[float, UUID]:
    """Return the time and the worker of the first claim of a job."""
    cursor = await reader.execute(
        "SELECT extract(epoch FROM created_at)::float8, substr(changed_by, 8)::uuid FROM runtime.transitions"
        " WHERE job_id = %s AND change_action = 'claim' ORDER BY version_to LIMIT 1",
        [job],
    )
    ((at, worker),) = await cursor.fetchall()
    return at, worker
