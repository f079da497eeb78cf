"""What the database refuses from everybody, and the kernel's statements on the enum and the progress."""

import uuid
from datetime import timedelta

import psycopg
import pytest
from psycopg import errors

from models.assessments import RETENTION, Assessment
from tests.support.kernel import Jobs
from workers.runtime.handler.outcomes import Cancel, Complete, Fail, Release, Retry, Snooze
from workers.runtime.store.claim import set_progress
from workers.runtime.store.intervene import cancel, retry
from workers.runtime.store.rescue import prune, rescue_expired
from workers.runtime.store.stages import list_stages

STAGE = "assessment.assess"


@pytest.fixture
def states(psql):
    """Three assessments for a person in psql: ``new``, ``running`` with a partial result, and ``done``."""
    psql.execute("SET search_path = assessments")
    for name in ("new", "running", "done"):
        psql.execute("""SELECT create_assessment(%s, '{"serverName": "srv", "options": {"depth": 1}}')""", [name])
    for name in ("running", "done"):
        psql.execute("""SELECT update_assessment_state(%s, 'processing', 1, '{"part": 1}', 'flaky', 20)""", [name])
    psql.execute("""SELECT update_assessment_state('done', 'completed', 2, '{"score": 1}')""")
    return psql


def change(connection, name: str, values: str) -> None:
    connection.execute(f"UPDATE assessment_states SET {values} WHERE assessment_id = '{name}'")


@pytest.mark.parametrize(
    ("name", "values", "rule"),
    [
        # illegal transitions
        ("new", "state = 'completed', progress = 100, completed_at = now(), version = 2", "cannot become completed"),
        ("new", "state = 'failed', progress = 100, completed_at = now(), version = 2", "cannot become failed"),
        ("done", "state = 'processing', progress = 5, completed_at = NULL, version = 4", "cannot become processing"),
        # double completion
        ("done", "version = 4", "completed is final"),
        ("done", """result_data = '{"score": 0}', version = 4""", "the results of a job that ended cannot change"),
        ("done", """result_data = '{"score": 0}'""", "the results of a job that ended cannot change"),
        ("done", "error_message = 'x'", "change only with its version"),
        ("done", "completed_at = now()", "change only with its version|its version must grow by one"),
        # a start without a ticket
        ("new", "state = 'processing', progress = 5, version = 2", "it has no ticket"),
        # a forged version: skipped, repeated, lowered
        ("running", "version = 4", "must grow by one"),
        ("running", "version = 1", "must grow by one"),
        ("running", "state = 'cancelled', progress = 100, completed_at = now()", "only with its version"),
        # erasing updates
        ("running", "result_data = NULL, version = 3", "its result cannot be erased"),
        ("running", "result_data = 'null', version = 3", "its result cannot be erased"),
        ("running", "error_message = NULL, version = 3", "its error cannot be erased"),
        ("running", "request_data = '{}', version = 3", "may gain keys"),
        ("running", "request_data = request_data || '{\"options\": {}}', version = 3", "may gain keys"),
        ("running", "request_data = request_data || '{\"more\": 1}'", "change only with its version"),
        ("running", "assessment_id = 'other', version = 3", "assessment_id cannot change"),
        ("running", "id = uuidv7(), version = 3", "its id cannot change"),
        # progress outside its rules
        ("new", "progress = 10", "valid_progress|ck_assessment_states_progress"),
        ("running", "progress = 0", "valid_progress|ck_assessment_states_progress"),
        ("running", "progress = 101", "ck_assessment_states_progress"),
        ("done", "progress = 50", "valid_progress|ck_assessment_states_progress"),
    ],
)
def test_an_update_by_hand_that_breaks_a_rule_is_refused(states, name, values, rule):
    """The database refuses it, and nothing is changed."""
    before = states.execute("SELECT * FROM assessment_states ORDER BY id").fetchall()

    with pytest.raises(errors.CheckViolation, match=rule):
        change(states, name, values)

    assert states.execute("SELECT * FROM assessment_states ORDER BY id").fetchall() == before


def test_an_update_by_hand_that_keeps_the_rules_is_taken_and_recorded(states):
    """Legal changes by hand are accepted."""
    change(states, "new", "dispatched_at = now()")
    change(states, "new", "state = 'processing', progress = 5, version = 2")
    change(states, "new", """request_data = request_data || '{"note": "by hand"}', version = 3""")

    trail = states.execute(
        "SELECT new_state::text AS state, version_to, changed_by FROM assessment_state_audit "
        "WHERE assessment_id = 'new' ORDER BY version_to"
    ).fetchall()
    assert [(row["state"], row["version_to"]) for row in trail] == [
        ("pending", 1),
        ("processing", 2),
        ("processing", 3),
    ]
    assert {row["changed_by"] for row in trail} == {"gristmill"}


@pytest.mark.parametrize("state", ["processing", "completed", "failed", "cancelled"])
def test_an_assessment_is_born_pending(psql, state):
    """The other values of the row do not matter."""
    with pytest.raises(errors.CheckViolation, match="must be pending"):
        psql.execute(
            "INSERT INTO assessments.assessment_states (assessment_id, request_data, state, progress, completed_at) "
            "VALUES ('x', '{}', %s, 100, %s)",
            [state, None if state == "processing" else "now"],
        )


def test_a_running_assessment_that_a_service_updates_is_the_services(states):
    """Its deadline stays, the worker's lease ends, and the worker's run loses its fence."""
    row = states.execute("SELECT * FROM assessment_states WHERE assessment_id = 'running'").fetchone()

    assert (row["lease_owner"], row["version"]) == (None, 2)
    assert row["deadline_at"] - row["started_at"] == timedelta(seconds=300)


# ── the kernel's statements ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def create(jobs: Jobs):
    """Create assessments and let a worker claim them."""

    async def created(count: int = 1):
        request = '{"serverName": "srv"}'
        await jobs.sql(
            "SELECT assessments.create_assessment('a-' || n, %s) FROM generate_series(1, %s) AS n", request, count
        )
        return await jobs.claim(await jobs.dispatched(STAGE, 0), STAGE)

    return created


async def test_a_claimed_assessment_is_read_as_its_model_says(create):
    """The state is text, and the request is an object."""
    [job] = await create()

    assert (job.status, job.request_data) == ("processing", {"serverName": "srv"})


@pytest.mark.parametrize(
    ("settlement", "state", "progress"),
    [
        (Complete(values={"result_data": {"score": 1}}), "completed", 100),
        (Fail("no"), "failed", 100),
        (Cancel("not wanted"), "cancelled", 100),
        (Retry("later"), "pending", 0),
        (Snooze(timedelta(hours=1), "busy"), "pending", 0),
        (Release("draining"), "pending", 0),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str | int) else None,
)
async def test_every_settlement_leaves_the_progress_that_the_state_demands(jobs, create, settlement, state, progress):
    """Failed and cancelled assessments end at 100 too, as the seed requires."""
    [job] = await create()
    async with jobs.database.kernel() as conn:
        assert await set_progress(conn, Assessment, (job.id, job.version), 40)

    assert await jobs.settle(job, settlement, STAGE)

    row = await jobs.row(job.id, STAGE)
    assert (row["status"], row["progress"], row["version"]) == (state, progress, 3)


async def test_a_run_whose_worker_is_gone_is_rescued_until_its_attempts_are_spent(jobs, create, registry):
    """The statement sets a different enum value per row."""
    first = await create(2)
    await jobs.sql("UPDATE assessments.assessment_states SET max_retries = 0 WHERE assessment_id = 'a-1'")

    async with jobs.database.kernel() as conn:
        rescued = await rescue_expired(conn, registry[STAGE], led_for=timedelta(hours=1))

    rows = {row["assessment_id"]: row for row in [await jobs.row(job.id, STAGE) for job in first]}
    assert rescued == 2
    assert (rows["a-1"]["status"], rows["a-1"]["progress"], rows["a-1"]["retry_count"]) == ("failed", 100, 0)
    assert (rows["a-2"]["status"], rows["a-2"]["progress"], rows["a-2"]["retry_count"]) == ("pending", 0, 1)


async def test_a_service_that_falls_silent_loses_its_assessment_at_its_deadline(jobs, psql, registry):
    """It runs without a lease. At its deadline it is rescued, which costs one attempt."""
    psql.execute("SELECT assessments.create_assessment('a-1', '{}', 5, 60)")
    psql.execute("SELECT assessments.update_assessment_state('a-1', 'processing', 1)")
    psql.execute("UPDATE assessments.assessment_states SET deadline_at = now() - interval '1 minute'")

    async with jobs.database.kernel() as conn:
        assert await rescue_expired(conn, registry[STAGE], led_for=timedelta(hours=1)) == 1

    row = psql.execute("SELECT state, retry_count, error_message FROM assessments.assessment_states").fetchone()
    assert row == {"state": "pending", "retry_count": 1, "error_message": "deadline passed"}


async def test_operators_cancel_and_retry(jobs, create):
    """A failed assessment returns to pending; a running one that is cancelled ends at progress 100."""
    failed, running = await create(2)
    await jobs.settle(failed, Fail("no"), STAGE)

    async with jobs.database.kernel() as conn:
        assert await retry(conn, Assessment, [failed.id], reason="again") == {failed.id}
        assert await cancel(conn, Assessment, [running.id], reason="enough") == {running.id}

    assert (await jobs.row(failed.id, STAGE))["status"] == "pending"
    row = await jobs.row(running.id, STAGE)
    assert (row["status"], row["progress"]) == ("cancelled", 100)


async def test_the_kernel_prunes_after_thirty_days(jobs, create):
    """The retention of the lifecycle is the same as in the view of the queue."""
    [job] = await create()
    ago = RETENTION + timedelta(minutes=1)
    await jobs.sql(
        "UPDATE assessments.assessment_states SET state = 'cancelled', progress = 100, version = 3, "
        "completed_at = now() - %s",
        ago,
    )
    [queued] = await jobs.sql("SELECT queue_type, now() - scheduled_at AS late FROM assessments.assessment_queue")

    async with jobs.database.kernel() as conn:
        assert await prune(conn, Assessment) == 1

    assert queued["queue_type"] == "cleanup"
    assert timedelta(minutes=1) < queued["late"] < timedelta(minutes=2)
    assert await jobs.actions(job.id) == ["enqueue", "claim", None]


async def test_a_completed_assessment_with_an_earlier_error_is_no_failure(jobs, psql):
    """If a service completes an assessment after a failure, the error stays and the failure count does not grow."""
    psql.execute("SELECT assessments.create_assessment('a-1', '{}')")
    psql.execute("SELECT assessments.update_assessment_state('a-1', 'processing', 1, p_error_message => 'flaky')")
    psql.execute("SELECT assessments.update_assessment_state('a-1', 'completed', 2)")

    async with jobs.database.kernel() as conn:
        [stage] = [one for one in await list_stages(conn) if one.stage == STAGE]

    assert stage.failed == 0
    assert psql.execute("SELECT error_message AS e FROM assessments.assessment_states").fetchone() == {"e": "flaky"}


async def test_a_stale_worker_cannot_settle_what_a_service_took_over(jobs, create):
    """Only one of them can use a version; the other's settle is rejected."""
    [job] = await create()
    await jobs.sql("SELECT assessments.update_assessment_state('a-1', 'processing', 2, p_progress => 50)")

    assert not await jobs.settle(job, Complete(values={"result_data": {"score": 1}}), STAGE)

    row = await jobs.row(job.id, STAGE)
    assert (row["status"], row["version"], row["progress"], row["result_data"]) == ("processing", 3, 50, None)


# ── rights ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def service(psql):
    """Act as a service until the test ends."""
    with psql.transaction(force_rollback=True):
        psql.execute("SET LOCAL ROLE gristmill_service; SET LOCAL search_path = assessments")
        psql.execute("SELECT set_config('gristmill.user_id', %s, true)", [str(uuid.uuid4())])
        yield psql


def test_a_service_creates_changes_and_reads_through_the_store(service):
    """It uses functions, views and ``runtime.jobs``, without a right to write the tables."""
    service.execute("SELECT create_assessment('a-1', '{}')")
    service.execute("SELECT update_assessment_state('a-1', 'cancelled', 1, p_changed_by => 'me')")
    service.execute("SELECT put_cached_state('a-1', '{}')")

    assert service.execute("SELECT get_cached_state('a-1') AS it").fetchone() == {"it": {}}
    assert service.execute("SELECT count(*) AS n FROM assessment_state_audit").fetchone() == {"n": 2}
    assert service.execute("SELECT status FROM runtime.jobs").fetchone() == {"status": "cancelled"}
    for view in ("active_assessments", "completed_assessments_summary", "assessment_stats_by_hour", "assessment_queue"):
        service.execute(f"SELECT * FROM {view}")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE assessment_states SET priority = 1",
        "DELETE FROM assessment_states",
        "SELECT cleanup_old_assessments(0)",
        "DELETE FROM assessment_metrics",
        "DELETE FROM retired_assessments",
        "UPDATE runtime.transitions SET changed_by = 'me'",
        "INSERT INTO assessment_states (id, assessment_id, request_data) VALUES (uuidv7(), 'x', '{}')",
        "INSERT INTO assessment_states (assessment_id, request_data, owner_id) VALUES ('x', '{}', uuidv7())",
        "INSERT INTO assessment_states (assessment_id, request_data, created_at) VALUES ('x', '{}', now())",
    ],
)
def test_a_service_has_no_other_way(service, statement):
    """Only the functions change rows, only workers clean up, and only the database sets ids, owners and times."""
    with pytest.raises(errors.InsufficientPrivilege):
        service.execute(statement)


def test_the_functions_run_wherever_the_search_path_points(psql):
    """A table of the same name in another schema changes nothing."""
    with psql.transaction(force_rollback=True):
        psql.execute(
            "CREATE SCHEMA trap; CREATE TABLE trap.assessment_states (assessment_id text); SET search_path = trap"
        )

        job_id = psql.execute("SELECT assessments.create_assessment('a-1', '{}') AS id").fetchone()["id"]

        assert isinstance(job_id, uuid.UUID)
        assert psql.execute("SELECT count(*) AS n FROM trap.assessment_states").fetchone() == {"n": 0}


def test_psycopg_speaks_of_a_conflict_by_its_code(states: psycopg.Connection):
    """Every driver can read the SQLSTATE GM409."""
    with pytest.raises(psycopg.DatabaseError) as refused:
        states.execute("SELECT update_assessment_state('running', 'completed', 1)")

    assert refused.value.sqlstate == "GM409"
    assert refused.value.diag.message_primary == "assessment 'running' has version 2, expected version 1"
