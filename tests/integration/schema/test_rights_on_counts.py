"""Who may do what with notices and counts: each process what it needs, services nothing."""

import psycopg
import pytest

TABLES = ("notices", "notice_interests", "notice_takers", "count_deltas", "stage_counts", "minute_counts", "counts")
READ = {"count_deltas": {"SELECT"}, "stage_counts": {"SELECT"}, "minute_counts": {"SELECT"}, "counts": {"SELECT"}}
WORKER = READ | {"notices": {"SELECT", "DELETE"}, "minute_counts": {"SELECT", "DELETE"}}
RIGHTS = {
    "gristmill_service": {},
    "gristmill_gateway": READ,
    "gristmill_worker": WORKER,
    "gristmill_operator": WORKER | {"notice_interests": {"SELECT"}, "notice_takers": {"SELECT"}},
    "gristmill_dispatcher": READ
    | {
        "count_deltas": {"SELECT", "DELETE"},
        "stage_counts": {"SELECT", "INSERT", "UPDATE"},
        "minute_counts": {"SELECT", "INSERT", "UPDATE"},
    },
}
FUNCTIONS = {
    "runtime.take_notices(bigint, integer)": {"gristmill_dispatcher"},
    "runtime.recount_jobs()": {"gristmill_operator"},
    "runtime.feed_step(bigint, integer)": set(RIGHTS) - {"gristmill_gateway"},  # it reads streams as its caller
    "runtime.error_fingerprint(text, text)": {"gristmill_worker", "gristmill_operator", "gristmill_dispatcher"},
    "runtime.count_gone()": set(),
    "runtime.forget_counts()": set(),
    "runtime.note_error()": set(),
}

TAKER = """
    INSERT INTO runtime.dead_messages (fingerprint, reason, size)
    SELECT sha256(n.job_id::text::bytea), n.status, 1 FROM unnest($1) AS n"""


@pytest.mark.parametrize("role", RIGHTS)
def test_a_role_has_the_listed_rights_and_no_others(psql, role):
    """A new right fails here until it is listed."""
    rows = psql.execute(
        """SELECT c.relname::text AS name, privilege FROM pg_class AS c
            CROSS JOIN unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,TRIGGER,REFERENCES,MAINTAIN}'::text[]) AS privilege
            WHERE c.relnamespace = 'runtime'::regnamespace AND c.relname = ANY (%s)
              AND has_table_privilege(%s, c.oid, privilege)""",
        [list(TABLES), role],
    ).fetchall()

    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(row["name"], set()).add(row["privilege"])
    assert found == RIGHTS[role]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_function_is_called_by_the_listed_roles(psql, function):
    """The owner of the tables may call all of them."""
    rows = psql.execute(
        "SELECT role FROM unnest(%s::text[]) AS role WHERE has_function_privilege(role, %s, 'EXECUTE')",
        [list(RIGHTS), function],
    ).fetchall()

    assert {row["role"] for row in rows} == FUNCTIONS[function]


def test_an_operator_hands_a_refused_notice_out_again(psql):
    """By its problem, and changes nothing else of it."""
    psql.execute(
        "INSERT INTO runtime.notices (job_id, stage, table_name, status, version, ended_at, problem) "
        "VALUES (uuidv7(), 's', 't', 'done', 1, now(), 'no')"
    )
    with psql.transaction(force_rollback=True):
        psql.execute("SET LOCAL ROLE gristmill_operator")
        assert psql.execute("UPDATE runtime.notices SET problem = NULL").rowcount == 1
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            psql.execute("UPDATE runtime.notices SET callback_url = 'https://other.example'")


def test_the_dispatchers_role_takes_and_folds(psql):
    """It needs no right on what takers write."""
    psql.execute("INSERT INTO runtime.notice_takers (name, statement) VALUES ('t', %s)", [TAKER])
    try:
        psql.execute("INSERT INTO proving.plain_jobs (callback_url) VALUES ('https://a.example')")
        psql.execute("UPDATE proving.plain_jobs SET status = 'cancelled', version = version + 1, completed_at = now()")
        psql.execute("INSERT INTO runtime.dispatcher (id, term, leader, expires_at) VALUES (1, 7, 'd', now())")
        with psql.transaction():
            psql.execute("SET LOCAL ROLE gristmill_dispatcher")
            assert psql.execute("SELECT * FROM runtime.take_notices(7, 10)").fetchall() == [{"taken": 1, "refused": 0}]
        assert psql.execute("SELECT reason FROM runtime.dead_messages").fetchall() == [{"reason": "cancelled"}]
    finally:
        psql.execute("DELETE FROM runtime.notice_takers WHERE name = 't'")
