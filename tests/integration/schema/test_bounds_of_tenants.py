"""Everything that a tenant writes has a maximum size: columns, arguments of functions, settings of its session."""

import uuid

import psycopg
import pytest
from psycopg import errors

OURS = "(SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema')"
MEBIBYTE = 1024 * 1024


def rows(psql, statement, *values):
    with psql.cursor(row_factory=psycopg.rows.tuple_row) as cursor:
        return cursor.execute(statement, values or None).fetchall()


# A bound is a length of the type, a domain with a rule, a CHECK of a length, or a trigger that refuses sizes or names.
UNBOUNDED = f"""
    SELECT c.oid::regclass || '.' || a.attname
      FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
      JOIN pg_type AS t ON t.oid = a.atttypid
     WHERE c.relkind IN ('r', 'p') AND c.relnamespace::regnamespace::text IN {OURS}
       AND (has_column_privilege('gristmill_service', c.oid, a.attnum, 'INSERT')
            OR has_column_privilege('gristmill_service', c.oid, a.attnum, 'UPDATE'))
       AND (t.typlen = -1 AND t.typname <> 'numeric') AND a.atttypmod = -1
       AND NOT EXISTS (SELECT FROM pg_constraint AS k WHERE k.contypid = t.oid AND k.conname LIKE 'at_most_%ib')
       AND NOT EXISTS (SELECT FROM pg_constraint AS k WHERE k.conrelid = c.oid AND a.attnum = ANY (k.conkey)
                          AND pg_get_constraintdef(k.oid) ~ 'length\\(')
       AND NOT EXISTS (SELECT FROM pg_trigger AS g WHERE g.tgrelid = c.oid AND a.attnum = ANY (g.tgattr)
                          AND g.tgfoid IN ('runtime.refuse_size'::regproc, 'runtime.refuse_name'::regproc))"""


def test_every_column_that_a_service_writes_has_a_bound(psql):
    """A new column fails here until it has one."""
    assert rows(psql, UNBOUNDED) == []


def test_a_column_without_a_bound_is_found(psql):
    """The query finds such a column."""
    with psql.transaction(force_rollback=True):
        psql.execute(
            "ALTER TABLE operations.projects ADD COLUMN motto text, ADD COLUMN seals bytea, ADD COLUMN tags text[]"
        )
        psql.execute("GRANT INSERT (motto), UPDATE (seals, tags) ON operations.projects TO gristmill_service")

        found = {name for (name,) in rows(psql, UNBOUNDED)}

    assert found == {f"operations.projects.{name}" for name in ("motto", "seals", "tags")}


# Functions that a service may call with an argument of any length, and what bounds it.
BOUNDED_BY = {
    "its table": {
        "scoring.enqueue_score",
        "assessments.create_assessment",
        "assessments.put_cached_state",
        "operations.enqueue_ingest",
        "operations.enqueue_analytics",
        "runtime.put_in_lane",
        "runtime.enqueue",
        "runtime.enqueue_many",
        "runtime.put_jobs",
        "runtime.repeat_jobs",
        "runtime.rerun_job",
        "runtime.in_lane",
    },
    "a cut": {"runtime.cancel", "runtime.decide", "assessments.update_assessment_state"},
    "nothing is kept": {
        "runtime.has_worker",
        "runtime.can_read_job",
        "runtime.refuse_key",
        "runtime.gate_told",
        "runtime.failed_states",
        "runtime.status_column",
        "runtime.first_job_statement",
        "runtime.release_keys",
        "runtime.outcome_of",
        "runtime.refuse",
        "runtime.refuse_violation",
        "runtime.quoted",
        "runtime.value_problem",
        "runtime.fields_problem",
        "runtime.job_problem",
        "runtime.as_span",
        "runtime.plain_jobs_condition",
        "runtime.row_expression",
        "runtime.is_name",
        "runtime.keeps",
        "runtime.readable",
        "assessments.get_cached_state",
        "assessments.job_of",
        "operations.content_hash",
        "operations.cosine_distance",
        "operations.looks_secret",
        "operations.delete_setting",
        "operations.delete_records",
    },
}


def test_what_every_function_makes_of_its_arguments_is_known(psql):
    """A new function that a service may call must be listed here, with the bound of what it stores."""
    found = rows(
        psql,
        f"""SELECT DISTINCT format('%s.%s', p.pronamespace::regnamespace, p.proname) FROM pg_proc AS p
             CROSS JOIN unnest(p.proargtypes) AS given JOIN pg_type AS t ON t.oid = given
             WHERE p.pronamespace::regnamespace::text IN {OURS} AND p.pronamespace <> 'public'::regnamespace
               AND t.typlen = -1 AND t.typtype <> 'c'
               AND has_function_privilege('gristmill_service', p.oid, 'EXECUTE')""",
    )

    assert {str(name) for (name,) in found} == set().union(*BOUNDED_BY.values())


@pytest.fixture
def alice(psql):
    """A service that acts for a user with a project, until the test ends."""
    [(user,)] = rows(psql, "INSERT INTO auth.users (email) VALUES ('alice@example.test') RETURNING id")
    psql.execute("UPDATE operations.profiles SET role = 'USER' WHERE id = %s", [user])
    with psql.transaction(force_rollback=True):
        psql.execute("SELECT set_config('gristmill.user_id', %s, true)", [str(user)])
        psql.execute("SET LOCAL ROLE gristmill_service")
        [(project,)] = rows(
            psql, """INSERT INTO operations.projects (name, "ownerId") VALUES ('p', %s) RETURNING id""", user
        )
        yield project


def refusal(psql, statement: str, *values: object) -> str:
    with pytest.raises(psycopg.Error) as caught, psql.transaction():
        psql.execute(statement, values or None)
    assert isinstance(caught.value, errors.CheckViolation | errors.InsufficientPrivilege)
    return str(caught.value)


def test_a_text_that_is_too_large_is_refused_in_a_line(psql, alice):
    """The line says which text, and how large it may be."""
    record = """INSERT INTO operations.data_records ("projectId", type, source, content)
                VALUES (%s, 'TASK', 's', repeat('x', %s))"""

    psql.execute(record, [alice, 4 * MEBIBYTE])

    assert (
        refusal(psql, record, alice, 4 * MEBIBYTE + 1) == "content must have at most 4194304 bytes, got more\n"
        "CONTEXT:  PL/pgSQL function runtime.refuse_size() line 5 at RAISE"
    )
    assert "guidelines must have at most" in refusal(
        psql, "UPDATE operations.projects SET guidelines = repeat('x', 80000000) WHERE id = %s", alice
    )


@pytest.mark.parametrize(
    ("number", "size"), [(0, 5), (0, 3), (0, 20 * MEBIBYTE), (1, 1), (-1, 4), (2_000_000_000, 1), (2_000_000_000, 0)]
)
def test_the_parts_of_a_file_are_as_large_as_the_file(psql, alice, number, size):
    """A file of four bytes has one part, of four bytes."""
    [(upload,)] = rows(
        psql,
        """INSERT INTO operations.uploads ("projectId", "fileName", "sizeBytes", sha256)
           VALUES (%s, 'f', 4, '') RETURNING id""",
        alice,
    )
    part = """INSERT INTO operations.upload_parts ("uploadId", "partNumber", content)
              VALUES (%s, %s, repeat('x', %s)::bytea)"""

    assert refusal(psql, part, upload, number, size)
    psql.execute(part, [upload, 0, 4])


def test_files_of_any_size_come_in_by_the_function(psql, alice):
    """Empty files, small files, and files of whole parts."""
    for size in (0, 1, MEBIBYTE, MEBIBYTE + 1, 3 * MEBIBYTE):
        content = b"content\n".ljust(size, b"x")[:size]
        psql.execute("SELECT operations.enqueue_ingest(%s, 'TASK', %s)", [alice, content])


DEEP = '{"a":' * 1_500 + "1" + "}" * 1_500
SAID = {
    "changed_by": "x" * 300_000,
    "change_reason": "x" * 300_000,
    "change_action": "x" * 300_000,
    "user_agent": "x" * 300_000,
}


@pytest.mark.parametrize(
    "context",
    [
        DEEP,
        '{"a":' * 6_000 + "1" + "}" * 6_000,
        '{"n": 1e5000}',
        '["' + "x" * 300_000 + '"]',
        "no JSON",
        '{"a": "\\u0000"}',
    ],
    ids=["deep", "deeper", "large number", "large", "none", "NUL"],
)
def test_history_cuts_what_a_session_says(psql, alice, context):
    """A job always ends: no value of a session setting makes its transition fail."""
    for name, value in (SAID | {"context": context}).items():
        psql.execute("SELECT set_config(%s, %s, true)", [f"gristmill.{name}", value])
    name = uuid.uuid4().hex
    psql.execute("SELECT assessments.create_assessment(%s, '{}')", [name])
    psql.execute(
        """SELECT assessments.update_assessment_state(%s, 'cancelled', 1, p_error_message => repeat('e', 300000),
             p_changed_by => repeat('b', 300000), p_change_reason => repeat('r', 300000))""",
        [name],
    )

    found = rows(
        psql,
        """SELECT length(changed_by), length(change_reason), length(change_action), length(user_agent),
                  octet_length(context::text), context ? 'cut'
             FROM assessments.assessment_state_audit WHERE assessment_id = %s ORDER BY version_to""",
        name,
    )
    assert len(found) == 2
    for by, reason, action, agent, size, cut in found:
        assert (by, reason, action, agent) == (255, 2000, 100, 1000)
        assert size < 2000
        assert cut
    [(error, reason)] = rows(
        psql,
        """SELECT length(error_message), length(change_reason) FROM assessments.assessment_states
            WHERE assessment_id = %s""",
        name,
    )
    assert error <= 10_000
    assert reason <= 2_000


def test_a_context_that_can_be_read_is_kept_as_it_is(psql, alice):
    """A missing context stays missing."""
    psql.execute("SELECT assessments.create_assessment('first', '{}')")
    psql.execute("""SELECT set_config('gristmill.context', '{"ticket": [7, {"by": "é"}]}', true)""")
    psql.execute("SELECT assessments.create_assessment('second', '{}')")

    found = rows(psql, "SELECT assessment_id, context FROM assessments.assessment_state_audit ORDER BY 1")
    assert found == [("first", None), ("second", {"ticket": [7, {"by": "é"}]})]
