"""The database enforces the rules: what a person in psql can and cannot do, and what history records."""

import psycopg
import pytest

from tests.support.kernel import heard
from workers.runtime.handler.outcomes import Complete, Fail, Retry, Snooze
from workers.runtime.store.intervene import cancel, retry
from workers.runtime.store.processes import report_leader, try_to_lead

MOVE = "UPDATE proving.plain_jobs SET status = %s, version = version + 1"


def insert(psql, columns: str = "", values: str = ""):
    """Insert one plain job, as a person in psql does; return its id."""
    statement = f"INSERT INTO proving.plain_jobs ({columns or 'act'}) VALUES ({values or 'DEFAULT'}) RETURNING id"
    return psql.execute(statement).fetchone()["id"]


def claim(psql, *ids: object, also: str = ""):
    """Claim these jobs, or all jobs, as the kernel does: first a ticket, then a lease."""
    which, values = ("WHERE id = ANY (%s)", [list(ids)]) if ids else ("", [])
    psql.execute(f"UPDATE proving.plain_jobs SET dispatched_at = now() {which}", values)
    psql.execute(f"{MOVE}, lease_owner = gen_random_uuid(){also} {which}", ["processing", *values])


def transitions(psql, job_id):
    return psql.execute("SELECT * FROM runtime.transitions WHERE job_id = %s ORDER BY version_to", [job_id]).fetchall()


def refused(psql, message: str):
    return pytest.raises(psycopg.errors.CheckViolation, match=message)


@pytest.mark.parametrize("status", ["completed", "failed", "halfway", "done"])
async def test_an_illegal_transition_is_refused(psql, status):
    """A ready job can only be claimed or cancelled, at every door."""
    job_id = insert(psql)

    with refused(psql, rf"job {job_id} of proving.plain_jobs: pending cannot become {status}|violates check"):
        psql.execute(MOVE + ", completed_at = now()", [status])

    assert len(transitions(psql, job_id)) == 1


@pytest.mark.parametrize("version", ["version", "version + 2", "version - 1", "1"])
async def test_a_transition_that_does_not_add_one_to_the_version_is_refused(psql, version):
    """The fence works only if every transition counts."""
    insert(psql)

    with refused(psql, r"its version must grow by one, got \d after 1|violates check"):
        psql.execute(f"UPDATE proving.plain_jobs SET status = 'processing', version = {version}")


async def test_a_version_never_goes_back_without_a_transition_either(psql):
    """Otherwise an old run could get its fence back."""
    insert(psql)
    claim(psql)

    with refused(psql, r"its version must grow by one, got 1 after 2"):
        psql.execute("UPDATE proving.plain_jobs SET version = 1")


async def test_an_id_cannot_change(psql):
    """History is kept by id."""
    insert(psql)

    with refused(psql, "its id cannot change"):
        psql.execute("UPDATE proving.plain_jobs SET id = uuidv7()")


async def test_two_ids_cannot_be_swapped(psql):
    """Both ids still exist after a swap, but the versions reveal it."""
    one, other = insert(psql), insert(psql)
    claim(psql, one)

    with pytest.raises(psycopg.errors.IntegrityError):
        psql.execute("UPDATE proving.plain_jobs SET id = CASE id WHEN %s THEN %s ELSE %s END", [one, other, one])


@pytest.mark.parametrize(
    ("columns", "values"),
    [
        ("status", "'processing'"),
        ("status, completed_at", "'completed', now()"),
        ("version", "2"),
        ("dispatched_at", "now()"),
    ],
)
async def test_a_job_is_born_ready_first_and_without_a_ticket(psql, columns, values):
    """Nobody can insert a job that is running, ended or dispatched."""
    with refused(psql, "a new job of proving.plain_jobs must be pending, fresh and unclaimed"):
        insert(psql, columns, values)


@pytest.mark.parametrize(
    "change",
    [
        "status = 'cancelled', version = version + 1",
        "completed_at = now()",
        "status = 'processing', version = version + 1, completed_at = now()",
    ],
)
async def test_terminal_and_only_terminal_jobs_have_an_end(psql, change):
    """``completed_at`` says exactly whether a job has ended."""
    insert(psql)

    with refused(psql, "ck_plain_jobs_terminal_timestamp"):
        psql.execute(f"UPDATE proving.plain_jobs SET {change}")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("status", "'sleeping'"),
        ("priority", "0"),
        ("priority", "11"),
        ("progress", "101"),
        ("retry_count", "6"),
        ("timeout_seconds", "0"),
    ],
)
async def test_values_out_of_range_are_refused(psql, column, value):
    """A CHECK refuses each and names the column."""
    insert(psql)

    with refused(psql, f"ck_plain_jobs_{column}|cannot become|must grow"):
        psql.execute(f"UPDATE proving.plain_jobs SET {column} = {value}")


async def test_one_bad_row_refuses_the_whole_statement(psql):
    """One illegal transition makes nine legal ones fail too."""
    ids = [insert(psql) for _ in range(10)]
    psql.execute("UPDATE proving.plain_jobs SET dispatched_at = now()")
    psql.execute(MOVE + ", completed_at = now() WHERE id = %s", ["cancelled", ids[7]])

    with refused(psql, f"job {ids[7]} of proving.plain_jobs: cancelled cannot become processing"):
        psql.execute(MOVE + ", completed_at = NULL, lease_owner = gen_random_uuid()", ["processing"])

    assert [len(transitions(psql, id_)) for id_ in ids] == [1, 1, 1, 1, 1, 1, 1, 2, 1, 1]


async def test_every_row_of_a_statement_leaves_its_own_transition(psql):
    """Inserts and updates, of one or many rows."""
    psql.execute("INSERT INTO proving.plain_jobs (act) SELECT 'complete' FROM generate_series(1, 50)")
    claim(psql)

    [counts] = psql.execute(
        "SELECT count(*) AS n, count(DISTINCT job_id) AS jobs, sum(version_to) AS versions FROM runtime.transitions"
    ).fetchall()
    assert counts == {"n": 100, "jobs": 50, "versions": 150}


async def test_a_claim_needs_a_ticket(psql):
    """Limits hold because only the leading dispatcher gives tickets."""
    insert(psql)

    with refused(psql, "it has no ticket: only a dispatched job can be claimed"):
        psql.execute(MOVE + ", lease_owner = gen_random_uuid(), dispatched_at = now()", ["processing"])


async def test_a_claim_needs_a_lease(psql):
    """Without a lease, nobody would rescue the job."""
    insert(psql)
    psql.execute("UPDATE proving.plain_jobs SET dispatched_at = now()")

    with refused(psql, "a claim has a lease_owner"):
        psql.execute(MOVE, ["processing"])


@pytest.mark.parametrize(
    ("attempts", "rule"),
    [("retry_count + 2", "grows by one or not at all"), ("retry_count - 1", "grows by one or not at all")],
)
async def test_attempts_are_spent_one_by_one_and_never_come_back(psql, attempts, rule):
    """``retry_count`` grows by at most one and never shrinks."""
    insert(psql)
    claim(psql)
    psql.execute(MOVE + ", retry_count = 1", ["pending"])
    claim(psql)

    with refused(psql, rule + "|ck_plain_jobs_retry_count"):
        psql.execute(f"{MOVE}, retry_count = {attempts}", ["pending"])


async def test_a_retry_by_hand_costs_an_attempt(psql):
    """A retry on the command line costs one too."""
    insert(psql)
    claim(psql)
    psql.execute(MOVE + ", completed_at = now()", ["failed"])

    with refused(psql, "a retry costs an attempt"):
        psql.execute(MOVE + ", completed_at = NULL", ["pending"])


@pytest.mark.parametrize(
    "fact",
    [
        "retry_count = 1",
        "started_at = now()",
        "lease_owner = gen_random_uuid()",
        "created_at = now() - interval '1 day'",
        "owner_id = gen_random_uuid()",
        "idempotency_key = 'another'",
    ],
)
async def test_facts_do_not_change_without_a_version(psql, fact):
    """Some facts never change."""
    insert(psql)
    claim(psql)

    with refused(psql, "its version must grow by one"):
        psql.execute(f"UPDATE proving.plain_jobs SET {fact}")


@pytest.mark.parametrize("fact", ["created_at = now() - interval '1 day'", "owner_id = gen_random_uuid()"])
async def test_owner_and_creation_never_change(psql, fact):
    """A transition cannot change them either."""
    insert(psql)

    with refused(psql, "its owner, key and creation cannot change"):
        psql.execute(f"{MOVE}, {fact}, completed_at = now()", ["cancelled"])


async def test_what_was_asked_never_changes(psql):
    """The result does not change either, after the job has ended."""
    profile = psql.execute("INSERT INTO scoring.profiles (name) VALUES ('Ada') RETURNING id").fetchone()["id"]
    job = psql.execute("SELECT scoring.enqueue_score(%s, 'Judge.') AS id", [profile]).fetchone()["id"]
    with refused(psql, f"job {job} of scoring.scoring_jobs: what was asked cannot change"):
        psql.execute("UPDATE scoring.scoring_jobs SET prompt = 'Praise.'")

    psql.execute("UPDATE scoring.scoring_jobs SET dispatched_at = now()")
    psql.execute("UPDATE scoring.scoring_jobs SET status = 'processing', version = 2, lease_owner = gen_random_uuid()")
    psql.execute(
        """UPDATE scoring.scoring_jobs SET status = 'completed', version = 3, completed_at = now(),
                  parsed_score = '{"overall": 10}'"""
    )
    with refused(psql, f"job {job} of scoring.scoring_jobs: the results of a job that ended cannot change"):
        psql.execute("""UPDATE scoring.scoring_jobs SET parsed_score = '{"overall": 100}'""")


async def test_updated_at_follows_changes_by_hand(psql):
    """A ticket does not change it."""
    psql.execute("INSERT INTO proving.plain_jobs (updated_at) VALUES (now() - interval '1 day')")
    psql.execute("UPDATE proving.plain_jobs SET dispatched_at = now()")
    before = psql.execute("SELECT now() - updated_at > interval '1 h' AS old FROM proving.plain_jobs").fetchone()

    psql.execute("UPDATE proving.plain_jobs SET priority = 1")

    after = psql.execute("SELECT now() - updated_at > interval '1 h' AS old FROM proving.plain_jobs").fetchone()
    assert (before["old"], after["old"]) == (True, False)


@pytest.mark.parametrize("time", ["infinity", "-infinity", "10000-01-01"])
@pytest.mark.parametrize("column", ["due_at", "dispatched_at", "deadline_at", "started_at", "created_at", "updated_at"])
async def test_times_that_nobody_can_reckon_with_are_refused(psql, column, time):
    """This covers every time column."""
    with pytest.raises(psycopg.errors.CheckViolation):
        insert(psql, column, f"'{time}'")


async def test_a_job_belongs_to_the_step_in_which_it_ended(jobs):
    """A retry continues in that step or an earlier one, never in a later one."""
    [first] = await jobs.running("proving.first")
    await jobs.settle(first, Fail("cannot be read"), "proving.first")
    [view] = await jobs.sql("SELECT stage FROM runtime.jobs WHERE id = %s", first.id)

    assert view["stage"] == "proving.first"
    with pytest.raises(psycopg.errors.CheckViolation, match="ended in processing and cannot go on at halfway"):
        await jobs.sql(
            "UPDATE proving.two_step_jobs SET status = 'halfway', version = version + 1, completed_at = NULL, "
            "retry_count = retry_count + 1"
        )

    async with jobs.database.kernel() as conn:
        assert await retry(conn, type(first), [first.id], reason="mended") == {first.id}
    assert (await jobs.row(first.id, "proving.first"))["status"] == "pending"


async def test_an_update_that_moves_nothing_leaves_nothing(psql):
    """Progress, tickets and own columns are no transitions; a statement without rows leaves nothing either."""
    job_id = insert(psql)
    psql.execute("UPDATE proving.plain_jobs SET progress = 5, key = 'k'")
    psql.execute("UPDATE proving.plain_jobs SET status = 'processing', version = 2 WHERE false")

    assert len(transitions(psql, job_id)) == 1


async def test_a_transition_says_who_why_and_from_where(psql):
    """``SET LOCAL`` gives them if the row does not."""
    job_id = insert(psql)
    with psql.transaction():
        psql.execute("SET LOCAL gristmill.changed_by = 'alice'")
        psql.execute("SET LOCAL gristmill.change_reason = 'asked by phone'")
        psql.execute("SET LOCAL gristmill.change_action = 'override'")
        psql.execute("""SET LOCAL gristmill.context = '{"ticket": 7}'""")
        psql.execute("SET LOCAL gristmill.ip_address = '2001:db8::7'")
        psql.execute("SET LOCAL gristmill.user_agent = 'psql'")
        psql.execute(MOVE + ", completed_at = now()", ["cancelled"])
    past = transitions(psql, job_id)[-1]

    assert (past["changed_by"], past["change_reason"], past["change_action"]) == ("alice", "asked by phone", "override")
    assert (past["context"], str(past["ip_address"]), past["user_agent"]) == ({"ticket": 7}, "2001:db8::7", "psql")
    assert (past["old_state"], past["new_state"], past["stage"]) == ("pending", "cancelled", "proving.plain")


async def test_a_session_that_says_nothing_is_named_by_its_role(psql):
    """Every transition has a name."""
    job_id = insert(psql)

    [past] = transitions(psql, job_id)
    assert (past["changed_by"], past["change_action"]) == ("gristmill", "enqueue")
    assert (past["old_state"], past["version_from"], past["version_to"]) == (None, None, 1)


async def test_what_was_said_ends_with_its_transaction(psql):
    """The reason of one person's ``SET LOCAL`` is not used for the next transaction."""
    job_id = insert(psql)
    with psql.transaction():
        psql.execute("SET LOCAL gristmill.changed_by = 'alice'")
    claim(psql)

    assert transitions(psql, job_id)[-1]["changed_by"] == "gristmill"


async def test_rows_of_one_statement_keep_their_own_reasons(psql):
    """If rows have different reasons, the row's reason wins over the session's."""
    one, other = insert(psql), insert(psql)
    with psql.transaction():
        psql.execute("SET LOCAL gristmill.change_reason = 'the session'")
        claim(psql, also=f", change_action = 'claim', change_reason = CASE id WHEN '{one}' THEN 'the row' END")

    assert transitions(psql, one)[-1]["change_reason"] == "the row"
    assert transitions(psql, other)[-1]["change_reason"] is None


async def test_an_old_reason_on_the_row_is_not_taken_for_a_new_one(psql):
    """A later transition by a person has that person's reason, not the kernel's last one."""
    job_id = insert(psql)
    claim(psql, also=", change_action = 'claim', change_reason = 'kernel'")
    with psql.transaction():
        psql.execute("SET LOCAL gristmill.change_reason = 'stuck since Monday'")
        psql.execute(MOVE, ["pending"])

    past = transitions(psql, job_id)[-1]
    assert (past["change_reason"], past["change_action"]) == ("stuck since Monday", None)


async def test_each_step_of_a_job_is_named_by_its_stage(jobs):
    """A transition has the stage that made it; a retry of the first step has the first stage."""
    [job] = await jobs.running("proving.first")
    await jobs.settle(job, Retry("boom"), "proving.first")
    await jobs.sql("UPDATE proving.two_step_jobs SET due_at = NULL")
    [job] = await jobs.running("proving.first", 0)
    await jobs.settle(job, Complete(), "proving.first")
    [job] = await jobs.running("proving.second", 0)
    await jobs.settle(job, Complete(), "proving.second")

    past = [(one.stage.removeprefix("proving."), one.new_state) for one in await jobs.history(job.id)]
    assert past == [
        ("first", "pending"),
        ("first", "processing"),
        ("first", "pending"),
        ("first", "processing"),
        ("first", "halfway"),
        ("second", "finishing"),
        ("second", "completed"),
    ]


async def test_history_is_written_though_the_planner_is_pinned(jobs):
    """The kernel's connections forbid hash joins, but the trigger needs one to pair old and new rows."""
    claimed = await jobs.running(count=200)

    assert len(claimed) == 200
    [row] = await jobs.sql("SELECT count(*) AS n FROM runtime.transitions WHERE change_action = 'claim'")
    assert row["n"] == 200


async def test_new_work_notifies_only_while_the_leader_listens(jobs, listener):
    """A busy leader polls; a NOTIFY for each enqueue would slow all of them down."""
    await jobs.ready()
    assert await heard(listener) == []  # no dispatcher has led yet

    async with await jobs.database.listen() as leader:
        term = await try_to_lead(leader, name="one")
        assert term
        await jobs.ready(count=20)
        assert await heard(listener) == [("gristmill_work", "proving.plain_jobs")]

        await report_leader(leader, term, listening=False)
        await jobs.ready()
        assert await heard(listener) == []


async def test_a_job_that_comes_back_or_ends_notifies_and_a_claim_does_not(jobs, listener):
    """A job that comes back can be dispatched, one that ends frees a slot; a claim does neither."""
    tickets = await jobs.dispatched(count=2)
    async with await jobs.database.listen() as leader:
        await try_to_lead(leader, name="one")

        one, other = await jobs.claim(tickets)
        assert await heard(listener) == []
        await jobs.settle(one, Snooze(one.created_at - one.created_at, "quota"))
        assert ("gristmill_work", "proving.plain_jobs") in await heard(listener)
        await jobs.settle(other, Complete())
        assert ("gristmill_work", "proving.plain_jobs") in await heard(listener)


async def test_a_run_moved_by_someone_else_is_announced_to_its_owner(jobs, psql, listener):
    """A cancel, a rescue or a person sends a NOTIFY with owner and job."""
    one, other = await jobs.running(count=2)

    async with jobs.database.kernel() as conn:
        await cancel(conn, type(one), [one.id], reason="no more")
    psql.execute(MOVE + " WHERE id = %s", ["pending", other.id])

    assert await heard(listener) == [
        ("gristmill_fence", f"{jobs.owner} {one.id}"),
        ("gristmill_fence", f"{jobs.owner} {other.id}"),
    ]


async def test_a_worker_that_settles_its_own_run_announces_nothing(jobs, psql, listener):
    """A settle sends no NOTIFY per job."""
    [job] = await jobs.running()
    psql.execute(f"SET gristmill.changed_by = 'worker:{jobs.owner}'")
    psql.execute(MOVE + ", completed_at = now()", ["completed"])

    assert (await jobs.row(job.id))["status"] == "completed"
    assert await heard(listener) == []


async def test_a_worker_that_cancels_anothers_run_is_announced(jobs, psql, listener):
    """Any worker may receive Flower's Revoke; the worker that runs the job must learn of it."""
    [job] = await jobs.running()
    psql.execute("SET gristmill.changed_by = 'worker:another'")
    psql.execute(MOVE + ", completed_at = now(), change_action = 'cancel'", ["cancelled"])

    assert await heard(listener) == [("gristmill_fence", f"{jobs.owner} {job.id}")]


async def test_a_ready_job_that_is_cancelled_is_announced_to_nobody(jobs, listener):
    """No worker runs it."""
    [job_id] = await jobs.ready()
    async with jobs.database.kernel() as conn:
        await cancel(conn, jobs.registry["proving.plain"].model, [job_id], reason="no more")

    assert await heard(listener) == []


async def test_nothing_is_announced_of_what_was_rolled_back(jobs, listener):
    """A NOTIFY is part of its transaction."""
    [job] = await jobs.running()
    async with jobs.database.kernel() as conn, conn.transaction(force_rollback=True):
        await cancel(conn, type(job), [job.id], reason="no more")

    assert await heard(listener) == []
    assert await jobs.settle(job, Fail("bad"))
