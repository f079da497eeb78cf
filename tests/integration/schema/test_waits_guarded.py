"""A wait in psql: what the guard of a table refuses for everybody, and what a tenant may do."""

import uuid

import psycopg
import pytest
from psycopg import errors

from tests.support.proving.models import SECOND_OPINION
from tests.support.waits import ASK, awaiting_agent, overdue, waiting

TABLE = "proving.waiting_jobs"


def refused(psql, statement: str, *values: object) -> psycopg.Error:
    with pytest.raises(psycopg.Error) as caught, psql.transaction():
        psql.execute(statement.encode(), values or None)
    return caught.value


def moved(into: str, *, action: str | None, more: str = "wait_until = NULL") -> str:
    """Return the statement with which a person in psql would end the wait of a job."""
    said = f"'{action}'" if action else "NULL"
    ended = ", completed_at = now()" if into in {"rejected", "lapsed", "waived", "cancelled", "failed"} else ""
    return f"""UPDATE {TABLE} SET status = '{into}', version = version + 1, change_action = {said},
                      change_reason = 'by hand', {more}{ended} WHERE id = %s"""


@pytest.mark.parametrize("action", [None, "approve", "complete", "retry"])
async def test_only_a_decision_a_deadline_or_a_cancel_ends_a_wait(jobs, psql, action):
    """Any other action is refused."""
    [(job_id, _)] = await waiting(jobs)

    error = refused(psql, moved("approved", action=action), job_id)

    assert isinstance(error, errors.CheckViolation)
    assert "only a decision, its deadline or a cancel ends the wait awaiting_approval" in str(error)


@pytest.mark.parametrize(
    ("into", "action", "told"),
    [
        ("approved", "expire", "the action expire cannot lead from awaiting_approval to approved"),
        ("approved", "cancel", "the action cancel cannot lead from awaiting_approval to approved"),
        ("lapsed", "decide", "the action decide cannot lead from awaiting_approval to lapsed"),
        ("lapsed", "expire", "its wait lasts until "),
        ("failed", "decide", "awaiting_approval cannot become failed"),
        ("acting", "decide", "awaiting_approval cannot become acting"),
    ],
)
async def test_each_way_out_of_a_wait_leads_where_the_lifecycle_says(jobs, psql, into, action, told):
    """An expiry must wait for the deadline."""
    [(job_id, _)] = await waiting(jobs)

    assert told in str(refused(psql, moved(into, action=action), job_id))


async def test_a_person_may_decide_in_psql_within_the_deadline(jobs, psql):
    """The guard records it like any other decision."""
    [(job_id, _)] = await waiting(jobs)

    psql.execute(moved("approved", action="decide"), [job_id])

    assert (await jobs.history(job_id))[-1].change_action == "decide"


@pytest.mark.parametrize("action", ["decide", "extend"])
async def test_after_the_deadline_nobody_decides_or_extends(jobs, psql, action):
    """This holds even if the wait has not been expired yet."""
    [(job_id, _)] = await overdue(jobs)
    extended = f"""UPDATE {TABLE} SET wait_until = now() + interval '1 hour', version = version + 1,
                          change_action = 'extend', change_reason = 'more time' WHERE id = %s"""

    error = refused(psql, moved("approved", action="decide") if action == "decide" else extended, job_id)

    assert "its wait ended at " in str(error)


async def test_a_deadline_moves_with_the_version_or_not_at_all(jobs, psql):
    """Each extension is a row of history."""
    [(job_id, version)] = await waiting(jobs)
    later = "wait_until = wait_until + interval '1 day'"

    assert "its version must grow by one" in str(refused(psql, f"UPDATE {TABLE} SET {later} WHERE id = %s", job_id))
    psql.execute(
        f"""UPDATE {TABLE} SET {later}, version = version + 1, change_action = 'extend', change_reason = 'ill'
             WHERE id = %s""",
        [job_id],
    )

    last = (await jobs.history(job_id))[-1]
    assert (last.change_action, last.change_reason, last.version_to) == ("extend", "ill", version + 1)


@pytest.mark.parametrize(
    "column", ["dispatched_at = now()", "due_at = now()", "deadline_at = now()", "wait_until = NULL"]
)
async def test_nobody_works_on_a_waiting_job_and_its_deadline_stays(jobs, psql, column):
    """It cannot get a ticket, a due time or a run's deadline."""
    [(job_id, _)] = await waiting(jobs)

    error = refused(psql, f"UPDATE {TABLE} SET {column} WHERE id = %s", job_id)

    assert isinstance(error, errors.CheckViolation)


async def test_no_deadline_stays_when_the_wait_is_left(jobs, psql):
    """A ready job has none."""
    [(job_id, _)] = await waiting(jobs)

    error = refused(psql, moved("approved", action="decide", more="progress = 0"), job_id)

    assert "ck_waiting_jobs_wait_deadline" in str(error)


async def test_a_new_job_does_not_wait(psql):
    """It begins with its first step."""
    error = refused(
        psql, f"INSERT INTO {TABLE} (status, wait_until) VALUES ('awaiting_approval', now() + interval '1 day')"
    )

    assert "must be pending" in str(error)


async def test_a_failed_wait_cannot_be_retried_past_the_step_that_led_to_it(jobs, psql):
    """A missing second opinion belongs to the asking step: a retry in the acting step would skip the approval."""
    [(job_id, _)] = await waiting(jobs)
    psql.execute(moved(SECOND_OPINION, action="decide", more="wait_until = now() + interval '1 ms'"), [job_id])
    psql.execute("SELECT pg_sleep(0.002)")
    psql.execute(moved("failed", action="expire"), [job_id])
    retried = f"""UPDATE {TABLE} SET status = %s, version = version + 1, retry_count = retry_count + 1,
                         completed_at = NULL, change_action = 'retry' WHERE id = %s"""

    error = refused(psql, retried, "approved", job_id)
    psql.execute(retried.encode(), ["pending", job_id])

    assert f"it ended in {SECOND_OPINION} and cannot go on at approved" in str(error)


async def test_a_retry_goes_back_to_the_step_of_its_wait(jobs, psql):
    """If an agent never answered, the step that asked it asks again."""
    job_id, _ = await awaiting_agent(jobs)
    psql.execute(f"ALTER TABLE {TABLE} DISABLE TRIGGER USER".encode())
    psql.execute(f"UPDATE {TABLE} SET wait_until = now() - interval '1 second'".encode())
    psql.execute(f"ALTER TABLE {TABLE} ENABLE TRIGGER USER".encode())
    psql.execute(moved("failed", action="expire"), [job_id])

    psql.execute(
        f"""UPDATE {TABLE} SET status = 'approved', version = version + 1, retry_count = retry_count + 1,
                   completed_at = NULL, change_action = 'retry' WHERE id = %s""".encode(),
        [job_id],
    )

    assert (await jobs.row(job_id, ASK))["status"] == "approved"


# ── tenants ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def speak(psql):
    """Act as a service for a tenant, or as a role, until the test ends; everything is rolled back."""
    with psql.transaction(force_rollback=True):

        def speak(user: uuid.UUID | None, role: str = "gristmill_service"):
            psql.execute(f"SET LOCAL ROLE {role}".encode())
            psql.execute("SELECT set_config('gristmill.user_id', %s, true)", [str(user) if user else ""])

        yield speak


async def owned(jobs, owner: uuid.UUID):
    """Return a job of ``owner`` that waits for an approval."""
    [(job_id, version)] = await waiting(jobs)
    await jobs.unguarded(f"UPDATE {TABLE} SET owner_id = %s WHERE id = %s", owner, job_id)
    return job_id, version


DECIDE = "SELECT runtime.decide(%s, %s, %s, 'I read it') AS done"


@pytest.mark.parametrize("column", ["status", "wait_until", "version", "change_action", "ended_in"])
async def test_a_tenant_cannot_decide_by_update(jobs, psql, speak, column):
    """Not even its own job: there is a function for it."""
    alice = uuid.uuid4()
    job_id, _ = await owned(jobs, alice)
    speak(alice)

    error = refused(psql, f"UPDATE {TABLE} SET {column} = DEFAULT WHERE id = %s", job_id)

    assert isinstance(error, errors.InsufficientPrivilege)


async def test_a_tenant_decides_its_own_job_where_the_table_says_so(jobs, psql, speak):
    """It needs the job's version; the history names the role that decided."""
    alice = uuid.uuid4()
    job_id, version = await owned(jobs, alice)
    speak(alice)

    assert psql.execute(DECIDE, [job_id, version - 1, "approved"]).fetchone()["done"] is False
    assert psql.execute(DECIDE, [job_id, version, "acting"]).fetchone()["done"] is False
    assert psql.execute(DECIDE, [job_id, version, "approved"]).fetchone()["done"] is True
    assert psql.execute(DECIDE, [job_id, version + 1, "approved"]).fetchone()["done"] is False

    psql.execute("RESET ROLE")
    row = psql.execute(f"SELECT status, wait_until, change_action, change_reason FROM {TABLE}".encode()).fetchone()
    assert row == {
        "status": "approved",
        "wait_until": None,
        "change_action": "decide",
        "change_reason": "I read it",
    }


async def test_a_tenant_decides_nobody_elses_job(jobs, psql, speak):
    """A service without a user cannot decide either."""
    job_id, version = await owned(jobs, uuid.uuid4())

    for user in (uuid.uuid4(), None):
        speak(user)
        assert psql.execute(DECIDE, [job_id, version, "approved"]).fetchone()["done"] is False


async def test_a_decision_by_function_after_the_deadline_does_not_count(jobs, psql):
    """The function and the workers' statement have the same rule."""
    [(job_id, version)] = await overdue(jobs)

    assert psql.execute(DECIDE, [job_id, version, "approved"]).fetchone()["done"] is False


async def test_an_operator_cancels_a_waiting_job_by_function(jobs, psql):
    """This works as for ready and running jobs."""
    [(job_id, _)] = await waiting(jobs)

    assert psql.execute("SELECT runtime.cancel(%s, 'no more') AS done", [job_id]).fetchone()["done"] is True

    row = await jobs.row(job_id, ASK)
    assert (row["status"], row["wait_until"]) == ("cancelled", None)


def test_beats_role_may_end_waits_and_nobody_tells_in_the_guards_name(psql):
    """The dispatcher's role writes the column of the deadline; only guards may call the functions that they call."""
    [row] = psql.execute(
        """SELECT has_column_privilege('gristmill_dispatcher', 'proving.waiting_jobs', 'wait_until', 'UPDATE') AS ends,
                  has_function_privilege('gristmill_service', 'runtime.tell_done(text, text[])', 'EXECUTE') AS tells,
                  has_function_privilege('gristmill_worker', 'runtime.tell_done(text, text[])', 'EXECUTE') AS works"""
    ).fetchall()

    assert row == {"ends": True, "tells": False, "works": False}
