"""The checker accepts one correct history with a case of everything, and finds every damage to it."""

import time
from datetime import timedelta
from uuid import uuid4

import psycopg
import pytest

from tests.chaos.evidence import Evidence
from tests.chaos.sound import Reader, SoundRun, changed, claimed, judge


async def test_a_sound_history_passes_every_check_and_each_has_examined_something(left: SoundRun) -> None:
    """A rule that examines nothing proves nothing. Without an open transaction the checker reads one snapshot."""
    async with await psycopg.AsyncConnection.connect(left.url, autocommit=True) as alone:
        report = await judge(alone, left.evidence)

    assert report.ok, report.render()
    assert report.idle == []
    assert report.render().endswith(f"no violations, checked in {report.seconds:.1f} s")


async def test_rules_that_examined_nothing_are_listed(left: SoundRun, reader: Reader) -> None:
    """If the log of the provider and the ledger are lost, no rule about calls is broken, and none is proven."""

    def lose(evidence: Evidence) -> None:
        evidence.calls, evidence.requests = [], 0

    await reader.execute("DELETE FROM llm.calls")
    await reader.execute("DELETE FROM llm.budget_totals")
    report = await judge(reader, changed(left, lose))

    assert report.ok
    assert report.idle == [
        "every call names its job",
        "a repeated request keeps its key",
        "a key names one request",
        "calls belong to runs",
        "no call after a cancel",
        "every call was reserved",
        "every paid call is charged",
        "charged as the provider counts",
        "reservations end",
        "reservations within their limits",
        "calls within their rate",
        "no budget is overspent",
        "totals are the sum of the ledger",
    ]


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
TICK_PASSED_OVER_BY_A_LOOK = """
UPDATE runtime.ticks SET fired_at = scheduled_for + interval '1 s' WHERE schedule = 'all';
INSERT INTO runtime.ticks (schedule, scheduled_for, fired_at, fired_by)
SELECT 'one', scheduled_for, fired_at, fired_by FROM runtime.ticks WHERE schedule = 'all' ORDER BY 2 LIMIT 1"""

LEDGER, OF_SCORED = "UPDATE llm.calls SET", " WHERE job_id = %(scored)s"
LIMITS = "UPDATE llm.limits SET"

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
    ("ticks at their times", None, TICK_PASSED_OVER_BY_A_LOOK),
    ("ticks at their times", None, "UPDATE runtime.ticks SET fired_at = scheduled_for - interval '1 ms'"),
    (
        "ticks at their times",
        None,
        "UPDATE runtime.ticks SET fired_at = scheduled_for + interval '1 min' WHERE schedule = 'skip'",
    ),
    ("ticks at their times", None, "UPDATE runtime.schedules SET catch_up = 'one' WHERE name = 'all'"),
    ("ticks at their times", None, "UPDATE runtime.schedules SET catch_up = 'skip' WHERE name = 'all'"),
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
    ("every call was reserved", "scored", "DELETE FROM llm.calls WHERE job_id = %(scored)s"),
    ("every call was reserved", "scored", f"{LEDGER} created_at = created_at + interval '1 s'{OF_SCORED}"),
    ("every call was reserved", "scored", f"{LEDGER} settled_at = created_at - interval '1 s'{OF_SCORED}"),
    ("every paid call is charged", "scored", f"{LEDGER} state = 'failed', usd = 0{OF_SCORED}"),
    ("charged as the provider counts", "scored", f"{LEDGER} output_tokens = output_tokens + 1{OF_SCORED}"),
    ("charged as the provider counts", "scored", f"{LEDGER} usd = 2 * usd{OF_SCORED}"),
    ("charged as the provider counts", "scored", f"{LEDGER} usd = 0{OF_SCORED}"),
    ("reservations end", "scored", f"{LEDGER} state = 'reserved', usd = NULL{OF_SCORED}"),
    ("reservations within their limits", None, f"{LIMITS} at_most = 3 WHERE measure = 'requests'"),
    ("reservations within their limits", None, f"{LIMITS} at_most = 10 WHERE measure = 'tokens'"),
    ("reservations within their limits", None, f"{LEDGER} settled_at = now(); {LIMITS} at_most = 1"),
    ("calls within their rate", None, f"{LIMITS} at_most = 3 WHERE measure = 'requests'"),
    ("calls within their rate", None, f"{LIMITS} at_most = 10 WHERE measure = 'tokens'"),
    ("no budget is overspent", None, "UPDATE llm.budgets SET tokens = 10"),
    ("no budget is overspent", None, "UPDATE llm.budgets SET usd = 0.00001"),
    ("totals are the sum of the ledger", None, "UPDATE llm.budget_totals SET spent_usd = spent_usd + 0.01"),
    ("totals are the sum of the ledger", None, "UPDATE llm.budget_totals SET reserved_tokens = 1"),
    ("totals are the sum of the ledger", None, "DELETE FROM llm.budget_totals"),
]


@pytest.mark.parametrize(("rule", "culprit", "damage"), DAMAGES)
async def test_damaged_history_breaks_its_rule_and_names_the_job(
    left: SoundRun, reader: Reader, rule: str, culprit: str | None, damage: str
) -> None:
    """The triggers make this damage impossible; the checker must find it without them."""
    for statement in damage.split(";"):
        await reader.execute(statement.encode(), left.jobs)

    report = await judge(reader, left.evidence)

    assert rule in report.failed, report.render()
    assert culprit is None or str(left.jobs[culprit]) in report[rule].jobs


async def test_key_of_two_jobs_is_found(left: SoundRun, reader: Reader) -> None:
    """An enqueue lost its answer, was repeated with its key, and made a second job."""
    await reader.execute("DROP INDEX proving.uq_plain_jobs_idempotency_key")
    await reader.execute("UPDATE proving.plain_jobs SET idempotency_key = 'k' WHERE act IN ('write', 'fail')")

    report = await judge(reader, changed(left, lambda e: e.unsure.update({"k": "proving.plain"})))

    assert report.failed == ["one job per idempotency key"]


async def test_enqueue_that_was_answered_but_never_committed_is_found(left: SoundRun, reader: Reader) -> None:
    """The job has no row and no history: it was lost."""
    lost = uuid4()

    report = await judge(reader, changed(left, lambda e: e.committed.update({lost: "proving.plain"})))

    assert report.failed == ["committed jobs exist"]
    assert report["committed jobs exist"].jobs == [str(lost)]


async def test_acknowledged_cancel_of_a_job_that_completed_is_found(left: SoundRun, reader: Reader) -> None:
    """The cancel was acknowledged, and then the job completed."""
    report = await judge(reader, changed(left, lambda e: e.cancelled.update({left.jobs["done"]: time.time()})))

    assert report["cancelled stays cancelled"].jobs == [str(left.jobs["done"])]


@pytest.mark.parametrize(
    ("over_since", "whose", "found"),
    [(0.0, "any", (0, 0)), (3600.0, "any", (1, 1)), (0.0, "its worker's", (0, 0)), (0.0, "another's", (1, 1))],
)
async def test_rescue_is_excused_during_an_isolation_and_not_after_it(
    left: SoundRun, reader: Reader, over_since: float, whose: str, found: tuple[int, int]
) -> None:
    """An isolated worker looks silent, so its rescue proves nothing. After the isolation the rule applies again."""
    await reader.execute(RESCUED_AT_ONCE.encode(), left.jobs)
    isolated = (0.0, time.time() - over_since)
    worker = {"its worker's": (await claimed(reader, left.jobs["rescued"]))[1], "another's": uuid4()}.get(whose)

    def cut_off(evidence: Evidence) -> None:
        if worker:
            evidence.isolated_workers[worker] = [isolated]
        else:
            evidence.isolated.append(isolated)

    verdict = (await judge(reader, changed(left, cut_off)))["only the silent are rescued"]

    assert (verdict.examined, verdict.violations) == found


async def test_job_that_can_move_may_stand_still_for_its_patience(left: SoundRun, reader: Reader) -> None:
    """The history is checked while jobs can still move."""
    await reader.execute(
        "UPDATE proving.plain_jobs SET due_at = NULL, dispatched_at = now() WHERE id = %(waiting)s", left.jobs
    )

    report = await judge(reader, left.evidence, patience=timedelta(hours=1))

    assert report.ok, report.render()
