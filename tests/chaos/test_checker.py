"""The checker on one sound history that holds a bit of everything: it passes, and whatever is damaged is found."""

import asyncio
import copy
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from cli.embedded import EmbeddedServers
from tests.chaos.checker import Rate, Report, check
from tests.chaos.evidence import Call, Evidence
from tests.chaos.rehearsal import LEASE_SECONDS, Rehearsal, rehearsing
from tests.conftest import create_database, drop_database
from tests.fakes.mill import mill
from tests.fakes.openai_server import FakeOpenAI
from tests.waiting import until
from workers.llm.provider import build
from workers.runtime.registry import Registry

SCORING = "scoring.score"
Reader = psycopg.AsyncConnection[Any]


@dataclass(frozen=True, slots=True)
class Left:
    """What the sound run left: its database, its evidence, and its jobs by what became of them."""

    url: str
    evidence: Evidence
    jobs: dict[str, UUID]


@pytest.fixture(scope="module")
def left(servers: EmbeddedServers, template: str, registry: Registry) -> Iterator[Left]:
    """One run for the whole module; each test damages it in a transaction that is rolled back."""
    url = create_database(servers.urls.database_url, "judged", template=template)
    with FakeOpenAI() as fake:
        yield asyncio.run(sound_run(url, registry, fake))
    drop_database(servers.urls.database_url, "judged")


async def sound_run(url: str, registry: Registry, fake: FakeOpenAI) -> Left:
    """Let everything happen once: effects, retries, snoozes, a rescue, cancels, ticks, steps, limits, calls."""
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
        await run.schedule()
        await run.beats()
        for stage in ("proving.plain", "proving.first", "proving.keyed"):
            await run.settled(stage=stage)
        await run.retry(jobs["failed"])
        await run.settled()
        await run.jobs.sql("UPDATE proving.plain_jobs SET max_retries = 1 WHERE id = %s", jobs["failed"])
        await run.retry(jobs["failed"])  # an attempt beyond what it had
        await run.settled()
        await until(lambda: worker.events.of(jobs["stopped"])[-1] == "stopped")
        await run.prune(jobs["pruned"])
        run.evidence.calls = fake.ledger
        run.listen()
        return Left(url, run.evidence, jobs)


async def asked(run: Rehearsal, fake: FakeOpenAI) -> dict[str, UUID]:
    """Score one profile, and cancel a job whose provider hangs."""
    fake.script(queue=[{"kind": "hang"}])
    llm = build(api_key="sk-test", base_url=fake.url, model=None, connect_timeout=2.0, timeout=10.0, max_connections=5)
    ((profile,),) = [
        row.values() for row in await run.jobs.sql("INSERT INTO scoring.profiles (name) VALUES ('a') RETURNING id")
    ]
    async with mill(run.url, run.registry, llm) as heard:
        (hung,) = await run.enqueue(SCORING, profile_id=str(profile), prompt="Judge.")
        await until(lambda: fake.calls == 1)
        await run.cancel(hung, stage=SCORING)
        (scored,) = await run.enqueue(SCORING, profile_id=str(profile), prompt="Judge again.")
        await run.settled(stage=SCORING)
    await llm.aclose()
    run.told += [what for what, _, _ in heard.events]
    return {"hung": hung, "scored": scored}


@pytest.fixture
async def reader(left: Left) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """A transaction on what the run left, past every trigger; rolled back with the test."""
    async with (
        await psycopg.AsyncConnection.connect(left.url) as connection,
        connection.transaction(force_rollback=True),
    ):
        await connection.execute("SET LOCAL session_replication_role = replica")
        yield connection


async def judge(reader: Reader, evidence: Evidence, **options: Any) -> Report:
    return await check(reader, evidence, **{"lease": timedelta(seconds=LEASE_SECONDS), **options})


async def test_a_sound_history_passes_every_check_and_each_has_examined_something(left: Left) -> None:
    """A rule that looks at nothing proves nothing; alone on its connection the checker reads one snapshot."""
    rates = {SCORING: Rate(at_most=2, per=timedelta(minutes=1))}

    async with await psycopg.AsyncConnection.connect(left.url, autocommit=True) as alone:
        report = await judge(alone, left.evidence, rates=rates)

    assert report.ok, report.render()
    assert [verdict.name for verdict in report.verdicts if not verdict.examined] == []
    assert report.render().endswith(f"no violations, checked in {report.seconds:.1f} s")


RESCUED_AT_ONCE = """
UPDATE runtime.transitions AS t SET created_at = c.created_at + interval '0.1 s' FROM runtime.transitions AS c
 WHERE t.job_id = %(rescued)s AND t.version_to = 3 AND c.job_id = t.job_id AND c.version_to = 2"""
ALL_AT_ONCE = """
UPDATE runtime.transitions SET created_at = (
  SELECT min(created_at) FROM runtime.transitions WHERE stage = 'proving.keyed' AND version_to = 2)
 WHERE stage = 'proving.keyed' AND version_to = 2"""
ONE_CLAIM_TOO_MANY = """
UPDATE runtime.transitions SET change_action = 'shrug' WHERE job_id = %(snoozed)s;
UPDATE proving.plain_jobs SET max_retries = 0 WHERE id = %(snoozed)s"""
TICK_PASSED_OVER = """
DELETE FROM runtime.ticks WHERE scheduled_for = (SELECT min(scheduled_for) + interval '1 min' FROM runtime.ticks)"""

DAMAGES = [
    ("committed jobs exist", "waiting", "DELETE FROM proving.plain_jobs WHERE id = %(waiting)s"),
    ("prune removed only the old and ended", "waiting", "DELETE FROM proving.plain_jobs WHERE id = %(waiting)s"),
    ("prune removed only the old and ended", "done", "DELETE FROM proving.plain_jobs WHERE id = %(done)s"),
    (
        "no job stands still",
        "done",
        "UPDATE proving.plain_jobs SET status = 'processing', completed_at = NULL WHERE id = %(done)s",
    ),
    (
        "no job stands still",
        "waiting",
        "UPDATE proving.plain_jobs SET due_at = NULL, dispatched_at = now() WHERE id = %(waiting)s",
    ),
    (
        "versions gapless",
        "retried",
        "DELETE FROM runtime.transitions WHERE job_id = %(retried)s AND version_to = 2",
    ),
    (
        "one end per life",
        "retried",
        "UPDATE runtime.transitions SET new_state = 'failed' WHERE job_id = %(retried)s AND version_to = 3",
    ),
    (
        "rows are where their history ends",
        "done",
        "UPDATE proving.plain_jobs SET version = version + 1 WHERE id = %(done)s",
    ),
    (
        "transitions legal",
        "done",
        "UPDATE runtime.transitions SET old_state = 'pending' WHERE job_id = %(done)s AND version_to = 3",
    ),
    (
        "transitions legal",
        "done",
        "UPDATE runtime.transitions SET new_state = 'processing' WHERE job_id = %(done)s AND version_to = 1",
    ),
    (
        "runs settled by their claimant",
        "done",
        "UPDATE runtime.transitions SET changed_by = 'worker:other' WHERE job_id = %(done)s AND version_to = 3",
    ),
    ("effects committed once", "done", "UPDATE proving.plain_jobs SET effects = 2 WHERE id = %(done)s"),
    ("effects committed once", "done", "UPDATE proving.plain_jobs SET effects = 0 WHERE id = %(done)s"),
    ("effects committed once", "failed", "UPDATE proving.plain_jobs SET effects = 1 WHERE id = %(failed)s"),
    ("effects committed once", "two_step", "UPDATE proving.two_step_jobs SET effects = 1 WHERE id = %(two_step)s"),
    ("effects committed once", "scored", "UPDATE scoring.scoring_jobs SET parsed_score = NULL WHERE id = %(scored)s"),
    ("attempts counted", "rescued", "UPDATE proving.plain_jobs SET retry_count = 0 WHERE id = %(rescued)s"),
    ("attempts counted", "snoozed", ONE_CLAIM_TOO_MANY),
    ("only the silent are rescued", "rescued", RESCUED_AT_ONCE),
    (
        "only the silent are rescued",
        "rescued",
        "UPDATE runtime.transitions SET change_reason = 'deadline passed' WHERE job_id = %(rescued)s",
    ),
    ("running per key within its limit", None, ALL_AT_ONCE),
    ("one job per tick", "done", "UPDATE runtime.transitions SET changed_by = 'beat:two' WHERE job_id = %(done)s"),
    ("one job per tick", None, "UPDATE runtime.ticks SET job_id = %(done)s"),
    ("one job per tick", None, "UPDATE runtime.ticks SET job_id = NULL"),
    ("one job per tick", None, "UPDATE runtime.ticks SET job_id = gen_random_uuid()"),
    ("ticks at their times", None, "UPDATE runtime.ticks SET scheduled_for = scheduled_for + interval '7 s'"),
    ("ticks at their times", None, TICK_PASSED_OVER),
    (
        "cancelled stays cancelled",
        "stopped",
        "UPDATE proving.plain_jobs SET status = 'completed' WHERE id = %(stopped)s",
    ),
    (
        "cancelled stays cancelled",
        "unwanted",
        "UPDATE runtime.transitions SET new_state = 'failed' WHERE job_id = %(unwanted)s AND version_to = 2",
    ),
]


@pytest.mark.parametrize(("rule", "culprit", "damage"), DAMAGES)
async def test_damaged_history_breaks_its_rule_and_names_the_job(
    left: Left, reader: Reader, rule: str, culprit: str | None, damage: str
) -> None:
    """Whatever the triggers make impossible and a bug did all the same."""
    for statement in damage.split(";"):
        await reader.execute(statement.encode(), left.jobs)

    report = await judge(reader, left.evidence)

    assert rule in report.failed, report.render()
    assert culprit is None or str(left.jobs[culprit]) in report[rule].jobs


async def test_key_of_two_jobs_is_found(left: Left, reader: Reader) -> None:
    """An enqueue whose answer was lost, repeated under its key, made a second job."""
    await reader.execute("DROP INDEX proving.uq_plain_jobs_idempotency_key")
    await reader.execute("UPDATE proving.plain_jobs SET idempotency_key = 'k' WHERE act IN ('write', 'fail')")

    report = await judge(reader, changed(left, lambda e: e.unsure.update({"k": "proving.plain"})))

    assert report.failed == ["one job per idempotency key"]


def changed(left: Left, change: Callable[[Evidence], Any]) -> Evidence:
    """Return the run's evidence with one thing said differently."""
    evidence = copy.deepcopy(left.evidence)
    change(evidence)
    return evidence


def call(job_id: UUID, *, at: float) -> Call:
    return Call(job_id=job_id, key=f"{job_id}-0", answer="answer", started_at=at, ended_at=None)


async def test_enqueue_that_was_answered_but_never_committed_is_found(left: Left, reader: Reader) -> None:
    """No row and no history: it was lost before it began."""
    lost = uuid4()

    report = await judge(reader, changed(left, lambda e: e.committed.update({lost: "proving.plain"})))

    assert report.failed == ["committed jobs exist"]
    assert report["committed jobs exist"].jobs == [str(lost)]


async def test_acknowledged_cancel_of_a_job_that_completed_is_found(left: Left, reader: Reader) -> None:
    """Told that it was cancelled, and then it was done."""
    report = await judge(reader, changed(left, lambda e: e.cancelled.update({left.jobs["done"]: time.time()})))

    assert report["cancelled stays cancelled"].jobs == [str(left.jobs["done"])]


@pytest.mark.parametrize(
    ("said", "violations"),
    [((0, 0, 0), 0), ((2, 1, 0), 0), ((2, 2, 0), 1), ((9, 0, 0), 6), ((0, 2, 1), 1), ((0, 3, 1), 0), ((1, 3, 1), 1)],
)
async def test_stale_rejections_are_held_to_the_runs_that_others_moved_on(
    left: Left, reader: Reader, said: tuple[int, int, int], violations: int
) -> None:
    """Three runs were moved on, one by a rescue and two by cancels: a bound, or where all was told an equality."""

    def say(evidence: Evidence) -> None:
        evidence.stale_rejections, evidence.stopped_runs, all_told = said
        evidence.all_told = bool(all_told)

    verdict = (await judge(reader, changed(left, say)))["stale writes rejected, no others"]

    assert (verdict.examined, verdict.violations) == (3, violations)


@pytest.mark.parametrize(
    ("seconds", "deaf", "found"), [(1.5, None, 0), (2.5, None, 1), (6.0, (0, 2), 0), (9.0, (0, 2), 1)]
)
async def test_call_after_a_cancel_is_found_once_every_worker_could_have_heard(
    left: Left,
    reader: Reader,
    seconds: float,
    deaf: tuple[float, float] | None,
    found: int,
) -> None:
    """Two seconds of grace, in which time that a worker was deaf, and three seconds after it, do not count."""
    acknowledged = left.evidence.cancelled[left.jobs["hung"]]

    def late(evidence: Evidence) -> None:
        evidence.calls.append(call(left.jobs["hung"], at=acknowledged + seconds))
        evidence.deaf += [(acknowledged + deaf[0], acknowledged + deaf[1])] if deaf else []

    report = await judge(reader, changed(left, late))

    assert report["no call after a cancel"].violations == found


async def test_call_for_a_job_that_was_not_claimed_is_found(left: Left, reader: Reader) -> None:
    """A call before the claim, and one for a job that nobody knows."""

    def ask(evidence: Evidence) -> None:
        evidence.calls += [call(left.jobs["waiting"], at=time.time()), call(uuid4(), at=time.time())]
        evidence.calls.append(call(left.jobs["scored"], at=0.0))

    report = await judge(reader, changed(left, ask))

    assert report["calls belong to runs"].violations == 3


@pytest.mark.parametrize(("over_since", "violations"), [(0.0, 0), (3600.0, 1)])
async def test_rescue_is_excused_by_a_time_of_deafness_and_by_none_that_is_over(
    left: Left, reader: Reader, over_since: float, violations: int
) -> None:
    """A worker that was cut off looked silent, whatever it recorded before; one that has been heard again is not."""
    await reader.execute(RESCUED_AT_ONCE.encode(), left.jobs)
    deaf = (0.0, time.time() - over_since)

    report = await judge(reader, changed(left, lambda e: e.deaf.append(deaf)))

    assert report["only the silent are rescued"].violations == violations


async def test_calls_beyond_the_rate_are_found(left: Left, reader: Reader) -> None:
    """Two calls within a minute are one too many where one is allowed."""
    report = await judge(reader, left.evidence, rates={SCORING: Rate(at_most=1, per=timedelta(minutes=1))})

    assert report.failed == ["calls within their rate"]


async def test_job_that_can_move_may_stand_still_for_its_patience(left: Left, reader: Reader) -> None:
    """A run checked while it is still moving."""
    await reader.execute(
        "UPDATE proving.plain_jobs SET due_at = NULL, dispatched_at = now() WHERE id = %(waiting)s", left.jobs
    )

    report = await judge(reader, left.evidence, patience=timedelta(hours=1))

    assert report.ok, report.render()
