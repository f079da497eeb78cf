"""A wait ends once: by a decision, by its deadline or by a cancel. Each transition has the four tests of style.md."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.support.kernel import heard, started_worker
from tests.support.proving.models import SECOND_OPINION, WaitingJob
from tests.support.proving.stages import Act
from tests.support.waits import ACT, ANNA, ASK, BORIS, awaiting_agent, cancelled, decided, expired, overdue, waiting
from workers.runtime.handler.outcomes import Complete, Fail, Release
from workers.runtime.handler.registry import Registry, stage
from workers.runtime.refusals import Conflict, Kind, NotFound
from workers.runtime.store.decide import Decision, decide
from workers.runtime.store.expire import expire
from workers.runtime.store.intervene import cancel, retry
from workers.runtime.store.settle import settle


def decision(ticket, into="approved", **more):
    return Decision(job_id=ticket[0], version=ticket[1], into=into, **more)


# ── enter ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_step_that_leads_to_a_wait_sets_its_deadline(jobs):
    """No worker has the job: no ticket, no lease, no deadline of a run."""
    [(job_id, _)] = await waiting(jobs)

    row = await jobs.row(job_id, ASK)
    assert row["status"] == "awaiting_approval"
    assert timedelta(minutes=59) < row["wait_until"] - datetime.now(UTC) <= timedelta(minutes=60)
    assert [row[name] for name in ("dispatched_at", "lease_owner", "deadline_at", "due_at", "started_at")] == [None] * 5
    assert row["progress"] == 0


async def test_a_handler_may_name_the_deadline(jobs):
    """The deadline is given as a time."""
    at = datetime(2031, 5, 4, 3, 2, tzinfo=UTC)

    [(job_id, _)] = await waiting(jobs, until=at)

    assert (await jobs.row(job_id, ASK))["wait_until"] == at


async def test_a_handler_may_choose_a_wait(jobs):
    """The handler asked a remote agent: the job waits for it and goes back to the same step."""
    ticket = await awaiting_agent(jobs, until=timedelta(minutes=1))
    assert (await jobs.row(ticket[0], ACT))["status"] == "awaiting_agent"

    [won] = await decided(jobs, [ticket], "approved")

    assert won.won
    [job] = await jobs.running(ACT, 0)
    assert await jobs.settle(job, Complete(), ACT)


async def test_a_handler_may_choose_an_end_of_its_domain(jobs):
    """The job has ended well, in the step that ended it."""
    [job] = await jobs.running(ASK)

    await jobs.settle(job, Complete(into="waived"), ASK)

    row = await jobs.row(job.id, ASK)
    assert (row["status"], row["ended_in"], row["progress"]) == ("waived", "asking", 100)


async def test_a_run_that_lost_its_job_cannot_have_it_wait(jobs):
    """If the run is stale, cancelled or settled already, the row stays as it is."""
    [stale], [gone] = await jobs.running(ASK), await jobs.running(ASK)
    await jobs.settle(stale, Release("drain"), ASK)
    await cancelled(jobs, gone.id)

    assert not await jobs.settle(stale, Complete(), ASK)
    assert not await jobs.settle(gone, Complete(), ASK)
    assert [(await jobs.row(job.id, ASK))["wait_until"] for job in (stale, gone)] == [None, None]


async def test_of_two_settles_at_once_one_has_the_job_wait(jobs):
    """A run that lost the answer of its settle and settles again enters the wait once."""
    [job] = await jobs.running(ASK)
    row = jobs.outcome(job, Complete(), ASK)

    first, second = await jobs.race(
        lambda conn: settle(conn, WaitingJob, [row]), lambda conn: settle(conn, WaitingJob, [row])
    )

    assert (first, second) == ({job.id}, set())


@pytest.mark.parametrize("outcome", [Complete(into="approved"), Complete(until=datetime(2031, 1, 1))])  # noqa: DTZ001
async def test_a_handler_that_leads_nowhere_fails_with_its_name(jobs, database_url, outcome):
    """The error is permanent: another attempt would fail too."""
    registry = Registry()

    @stage(ASK, of=WaitingJob, payload=Act, into=registry)
    async def ask(job, ctx):
        return outcome

    tickets = await jobs.dispatched(ASK)

    async with started_worker(database_url, registry) as worker:
        await worker.run(tickets, ASK)

    row = await jobs.row(tickets[0][0], ASK)
    assert (row["status"], row["retry_count"]) == ("failed", 0)
    assert row["error_message"].startswith("handler of 'proving.ask' ")


# ── decide ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_decision_makes_the_job_ready_in_the_name_of_who_decided(jobs):
    """The history has actor, reason and address; the deadline is removed."""
    [ticket] = await waiting(jobs)

    [won] = await decided(jobs, [ticket], "approved", values={"result": {"note": "fine"}})

    assert won.won
    assert (won.status, won.version) == ("approved", ticket[1] + 1)
    row = await jobs.row(ticket[0], ASK)
    assert (row["status"], row["wait_until"], row["result"]) == ("approved", None, {"note": "fine"})
    last = (await jobs.history(ticket[0]))[-1]
    assert (last.change_action, last.changed_by, last.change_reason) == ("decide", "anna", "she read it")
    assert str(last.ip_address) == "192.0.2.7"
    assert (last.stage, last.old_state, last.new_state) == (ASK, "awaiting_approval", "approved")


async def test_a_decision_may_end_the_job(jobs):
    """The end is one of the domain; a bad end has a reason."""
    [ticket] = await waiting(jobs)

    [won] = await decided(jobs, [ticket], "rejected", reason="not now")

    row = await jobs.row(ticket[0], ASK)
    assert won.won
    assert (row["status"], row["ended_in"], row["wait_until"]) == ("rejected", "awaiting_approval", None)
    assert row["completed_at"] is not None


async def test_a_decision_may_lead_to_another_wait(jobs):
    """The decision names the deadline and may repeat the same wait; each decision has a row of history."""
    [ticket] = await waiting(jobs)
    [further] = await decided(jobs, [ticket], SECOND_OPINION, reason="same", until=timedelta(hours=2))
    assert further.won

    [won] = await decided(jobs, [(ticket[0], ticket[1] + 1)], "approved", reason="same", actor=BORIS)

    assert won.won
    past = (await jobs.history(ticket[0]))[-2:]
    assert [(one.change_action, one.changed_by, one.change_reason) for one in past] == [
        ("decide", "anna", "same"),
        ("decide", "boris", "same"),
    ]


async def test_a_stale_decision_changes_nothing_and_learns_who_decided(jobs):
    """The refusal says who decided before, what, and when."""
    [ticket] = await waiting(jobs)
    await decided(jobs, [ticket], "rejected", actor=BORIS)

    [lost] = await decided(jobs, [ticket], "approved")

    assert isinstance(lost.refusal, Conflict)
    assert f"job {ticket[0]} was decided by boris at " in str(lost.refusal)
    assert str(lost.refusal).endswith(": rejected; it is rejected now")
    assert (lost.status, lost.version) == ("rejected", ticket[1] + 1)


async def test_a_decision_about_an_earlier_wait_does_not_count_for_a_later_one(jobs):
    """A page that was opened before the job waited again cannot decide."""
    earlier = await awaiting_agent(jobs)
    await decided(jobs, [earlier], "approved")
    [job] = await jobs.running(ACT, 0)
    await jobs.settle(job, Complete(into="awaiting_agent"), ACT)

    [lost] = await decided(jobs, [earlier], "completed")

    assert "was decided by anna at" in str(lost.refusal)
    assert str(lost.refusal).endswith(": approved; it is awaiting_agent now")


async def test_an_expired_wait_tells_the_late_decision_when_it_expired(jobs):
    """The job has ended."""
    [ticket] = await overdue(jobs)
    await expired(jobs)

    [lost] = await decided(jobs, [ticket], "approved")

    assert f"the wait of job {ticket[0]} expired at " in str(lost.refusal)
    assert str(lost.refusal).endswith("; it is lapsed now")


async def test_a_job_that_does_not_wait_cannot_be_decided(jobs):
    """The job is ready, running or gone."""
    [ready] = await jobs.dispatched(ASK)
    [running] = await jobs.running(ASK)
    [gone] = await waiting(jobs)
    await jobs.sql("DELETE FROM proving.waiting_jobs WHERE id = %s", gone[0])

    lost = await decided(jobs, [ready, (running.id, running.version), gone], "approved")

    assert "waits for no decision; it is pending now" in str(lost[0].refusal)
    assert "waits for no decision; it is asking now" in str(lost[1].refusal)
    assert isinstance(lost[2].refusal, NotFound)


@pytest.mark.parametrize(
    ("into", "more", "kind", "told"),
    [
        ("completed", {}, Kind.CONFLICT, "waits for an approval: a decision leads to approved, rejected, waived"),
        ("acting", {}, Kind.INVALID, "decision must be one of approved, awaiting_second_opinion"),
        (SECOND_OPINION, {}, Kind.INVALID, f"until is required for the wait '{SECOND_OPINION}'"),
        (SECOND_OPINION, {"until": datetime(2031, 1, 1)}, Kind.INVALID, "until must have a time zone"),  # noqa: DTZ001
    ],
)
async def test_a_decision_that_leads_nowhere_is_refused_alone(jobs, into, more, kind, told):
    """The other decisions of its batch win."""
    bad, good = await waiting(jobs, 2)

    async with jobs.database.kernel() as conn:
        lost, won = await decide(conn, WaitingJob, [decision(bad, into, **more), decision(good)], actor=ANNA)

    assert won.won
    assert lost.refusal is not None
    assert lost.refusal.kind is kind
    assert told in str(lost.refusal)
    assert (await jobs.row(bad[0], ASK))["status"] == "awaiting_approval"


async def test_a_decision_after_the_deadline_loses_before_anything_has_expired_it(jobs):
    """The deadline counts even if no beat runs."""
    [ticket] = await overdue(jobs)

    [lost] = await decided(jobs, [ticket], "approved")

    assert "a decision after its deadline does not count" in str(lost.refusal)
    assert (await jobs.row(ticket[0], ASK))["status"] == "awaiting_approval"


async def test_of_two_decisions_at_once_one_wins(jobs):
    """The refusal of the other one names the first."""
    [ticket] = await waiting(jobs)

    [first], [second] = await jobs.race(
        lambda conn: decide(conn, WaitingJob, [decision(ticket)], actor=ANNA),
        lambda conn: decide(conn, WaitingJob, [decision(ticket, "rejected")], actor=BORIS),
    )

    assert first.won
    assert "was decided by anna" in str(second.refusal)
    assert (await jobs.row(ticket[0], ASK))["status"] == "approved"


async def test_of_two_decisions_in_one_batch_one_wins(jobs):
    """The result says which one."""
    [ticket] = await waiting(jobs)

    async with jobs.database.kernel() as conn:
        both = await decide(conn, WaitingJob, [decision(ticket), decision(ticket, "rejected")], actor=ANNA)

    assert sorted(one.won for one in both) == [False, True]
    [won] = [one for one in both if one.won]
    assert (await jobs.row(ticket[0], ASK))["status"] == won.decision.into


async def test_who_acts_is_forgotten_after_the_decision(jobs):
    """The caller's transaction continues with its own actor."""
    [ticket], [other] = await waiting(jobs), await waiting(jobs)

    async with jobs.database.kernel() as conn, conn.transaction():
        await decide(conn, WaitingJob, [decision(ticket)], actor=ANNA)
        await cancel(conn, WaitingJob, [other[0]], reason="no more")

    assert [(await jobs.history(job))[-1].changed_by for job in (ticket[0], other[0])] == ["anna", "test"]


async def test_a_decision_that_makes_a_job_ready_notifies_the_dispatcher(jobs, listener):
    """The dispatcher gets a NOTIFY and does not wait for its poll."""
    [ticket] = await waiting(jobs)
    await jobs.sql(
        "INSERT INTO runtime.dispatcher (id, leader, term, expires_at, listening) VALUES (1, 'x', 1, now(), true)"
    )
    await heard(listener)

    await decided(jobs, [ticket], "approved")

    assert ("gristmill_work", "proving.waiting_jobs") in await heard(listener)


# ── expire ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_wait_whose_deadline_passed_ends_as_its_lifecycle_says(jobs):
    """A bad end says what the job waited for and until when."""
    [(job_id, _)] = await overdue(jobs)

    assert await expired(jobs) == 1

    row = await jobs.row(job_id, ASK)
    assert (row["status"], row["ended_in"], row["wait_until"]) == ("lapsed", "awaiting_approval", None)
    assert row["error_message"].startswith("waited for an approval until 2")
    last = (await jobs.history(job_id))[-1]
    assert (last.change_action, last.changed_by, last.change_reason) == ("expire", "test", row["error_message"])


async def test_a_wait_before_its_deadline_is_left_alone(jobs):
    """A job that does not wait is not expired either."""
    await waiting(jobs)
    await jobs.ready(ASK)
    await jobs.running(ASK)

    assert await expired(jobs) == 0


async def test_an_expiry_that_comes_after_the_decision_finds_nothing(jobs):
    """The row has another version, even if the deadline passed long ago."""
    [ticket] = await waiting(jobs)
    await decided(jobs, [ticket], "approved")
    await jobs.unguarded("UPDATE proving.waiting_jobs SET created_at = now() - interval '2 days'")

    assert await expired(jobs) == 0
    assert (await jobs.row(ticket[0], ASK))["status"] == "approved"


async def test_two_beats_expire_each_wait_once(jobs):
    """Each one skips rows that the other has locked."""
    await overdue(jobs, 5)

    first, second = await jobs.race(
        lambda conn: expire(conn, WaitingJob, batch=3), lambda conn: expire(conn, WaitingJob)
    )

    assert (first, second) == (3, 2)
    assert await expired(jobs) == 0


async def test_an_expiry_leaves_the_row_of_who_is_deciding(jobs):
    """A decision that began in time is not overtaken. If it fails, the next pass expires the wait."""
    [ticket] = await overdue(jobs)

    async with jobs.database.kernel() as conn, conn.transaction():
        await conn.execute("SELECT FROM proving.waiting_jobs WHERE id = %s FOR UPDATE", [ticket[0]])
        assert await expired(jobs) == 0

    assert await expired(jobs) == 1


async def test_a_decision_that_waited_for_the_row_past_the_deadline_loses(jobs):
    """The time at which the row becomes free counts, not the start of the statement."""
    [ticket] = await waiting(jobs, until=timedelta(seconds=0.4))

    async def hold(conn):
        await conn.execute("SELECT pg_sleep(0.5) FROM proving.waiting_jobs WHERE id = %s FOR UPDATE", [ticket[0]])

    _, [late] = await jobs.race(hold, lambda conn: decide(conn, WaitingJob, [decision(ticket)], actor=ANNA))

    assert "a decision after its deadline does not count" in str(late.refusal)


async def test_a_failed_wait_is_retried_in_the_step_that_led_to_it(jobs):
    """The step asks the agent again; no approval is repeated and none is skipped."""
    ticket = await awaiting_agent(jobs, until=timedelta(microseconds=1))
    assert await expired(jobs) == 1
    assert (await jobs.row(ticket[0], ACT))["status"] == "failed"

    async with jobs.database.kernel() as conn:
        assert await retry(conn, WaitingJob, [ticket[0]], reason="again") == {ticket[0]}

    assert (await jobs.row(ticket[0], ACT))["status"] == "approved"


# ── cancel ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_waiting_job_is_cancelled_at_once(jobs):
    """Its deadline is removed."""
    [ticket] = await waiting(jobs)

    assert await cancelled(jobs, ticket[0]) == {ticket[0]}

    row = await jobs.row(ticket[0], ASK)
    assert (row["status"], row["wait_until"], row["ended_in"]) == ("cancelled", None, "awaiting_approval")
    [lost] = await decided(jobs, [ticket], "approved")
    assert f"job {ticket[0]} was cancelled by test at " in str(lost.refusal)


async def test_a_decided_job_that_ended_stays_as_it_ended(jobs):
    """A late cancel changes nothing."""
    [ticket] = await waiting(jobs)
    await decided(jobs, [ticket], "rejected")

    assert await cancelled(jobs, ticket[0]) == set()


async def test_of_a_decision_and_a_cancel_at_once_one_counts(jobs):
    """An end by a decision is final."""
    [ticket] = await waiting(jobs)

    [won], lost = await jobs.race(
        lambda conn: decide(conn, WaitingJob, [decision(ticket, "rejected")], actor=ANNA),
        lambda conn: cancel(conn, WaitingJob, [ticket[0]], reason="no more"),
    )

    assert won.won
    assert lost == set()


async def test_of_a_cancel_and_an_expiry_at_once_one_counts(jobs):
    """The row has one end."""
    [ticket] = await overdue(jobs)

    gone, late = await jobs.race(
        lambda conn: cancel(conn, WaitingJob, [ticket[0]], reason="no more"), lambda conn: expire(conn, WaitingJob)
    )

    assert (gone, late) == ({ticket[0]}, 0)
    assert await jobs.actions(ticket[0]) == ["enqueue", "claim", "complete", "cancel"]


# ── what listeners are told ──────────────────────────────────────────────────────────────────────────────────────────


async def test_listeners_learn_of_jobs_that_begin_to_wait_and_of_jobs_that_end(jobs, listener):
    """One NOTIFY per statement names the table and each job as id:version."""
    await listener.execute("LISTEN gristmill_done")
    tickets = await waiting(jobs, 2)
    assert await _told(listener) == [{f"{id_}:{version}" for id_, version in tickets}]

    await decided(jobs, tickets, "approved")
    assert await _told(listener) == []

    jobs_running = await jobs.running(ACT, 0)
    for job in jobs_running:
        await jobs.settle(job, Fail("bad"), ACT)
    assert await _told(listener) == [{f"{job.id}:{job.version + 1}"} for job in jobs_running]


async def test_where_not_all_fit_as_many_are_listed_as_do(jobs, listener):
    """A payload of more than 7,800 bytes may be incomplete: then a listener reads the rows."""
    await listener.execute("LISTEN gristmill_done")

    tickets = await waiting(jobs, 250)

    [payload] = [said for channel, said in await heard(listener) if channel == "gristmill_done"]
    listed = payload.split()[1:]
    assert 7_800 < len(payload) <= 7_900
    assert len(listed) == len(set(listed))
    assert set(listed) < {f"{id_}:{version}" for id_, version in tickets}


async def _told(listener):
    """Return the jobs of each notification on ``gristmill_done``."""
    found = [payload for channel, payload in await heard(listener) if channel == "gristmill_done"]
    assert all(payload.split()[0] == "proving.waiting_jobs" and len(payload) <= 7_900 for payload in found)
    return [set(payload.split()[1:]) for payload in found]
