"""A malicious tenant: a member of ``gristmill_service`` that runs its own SQL, checked against the whole catalogue.

New tables and functions are included automatically. This file lists what a service may do; all else must be refused.
"""

import uuid

import psycopg
import pytest
from psycopg import errors, sql

# Every schema except those of Postgres. So schemas of new domains and of the proving tables are included.
OURS = "(SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema')"

# The columns that a service may write, by table. Of job tables: the payload and when to run, no column of the kernel.
OPTIONS = {"priority", "idempotency_key", "callback_url", "traceparent"}
MAY_INSERT = {
    "scoring.profiles": {"owner_id", "name", "attributes"},
    "scoring.scoring_jobs": {"profile_id", "prompt", "model_name", "due_at"} | OPTIONS,
    "assessments.assessment_states": {"assessment_id", "request_data", "timeout_seconds", "next_retry_at"} | OPTIONS,
    "assessments.assessment_metrics": {"assessment_id", "metric_type", "metric_value"},
    "operations.projects": {"name", "ownerId", "guidelines", "guidelinesFileName"},
    "operations.data_records": {"projectId", "type", "category", "source", "content", "metadata"},
    "operations.likert_scores": {"recordId", "userId", "realismScore", "qualityScore"},
    "operations.bonus_windows": {"name", "startTime", "endTime", "targetTaskCount", "targetFeedbackCount",
                                 "targetTaskCountTier2", "targetFeedbackCountTier2"},
    "operations.system_settings": {"key", "value", "description"},
    "operations.ingest_jobs": {"projectId", "type", "source", "mapping", "options", "due_at", "uploadId",
                               "contentHash"} | OPTIONS,
    "operations.analytics_jobs": {"projectId", "type", "modelName", "due_at"} | OPTIONS,
    "operations.uploads": {"projectId", "fileName", "sizeBytes", "sha256", "encoding", "lineCount"},
    "operations.upload_parts": {"uploadId", "partNumber", "content"},
    "notifications.endpoints": {"url", "stages", "secret"},
    # The columns that `attach_lifecycle` grants; the revision of a domain may grant more.
    "proving.plain_jobs": {"due_at"} | OPTIONS,
    "proving.keyed_jobs": {"due_at"} | OPTIONS,
    "proving.two_step_jobs": {"due_at"} | OPTIONS,
    "proving.waiting_jobs": {"due_at"} | OPTIONS,
}  # fmt: skip
MAY_UPDATE = {
    "scoring.profiles": {"name", "attributes"},
    "operations.profiles": {"role", "mustResetPassword"},
    "operations.projects": {"name", "guidelines", "guidelinesFileName"},
    "operations.data_records": {"type", "category", "content", "metadata", "hasBeenReviewed", "isCategoryCorrect",
                                "reviewedBy"},
    "operations.likert_scores": {"realismScore", "qualityScore"},
    "operations.bonus_windows": MAY_INSERT["operations.bonus_windows"],
    "operations.system_settings": {"value", "description"},
    "notifications.endpoints": {"url", "stages", "secret", "previous_until", "disabled_at", "disabled_reason"},
}  # fmt: skip
# Functions that run with their owner's rights and that a service may call; each checks the actor.
MAY_CALL_WITH_OWNERS_RIGHTS = {
    "runtime.actor_id",
    "runtime.cancel",
    "runtime.feed_step",  # tells how many transactions make up some thousand transitions, and nothing of them
    "runtime.gate_told",  # of a key that the caller must know: what keeps its jobs back
    "runtime.decide",  # only where the table says that its tenants may decide
    "runtime.failed_states",  # names of states
    "runtime.status_column",  # the name of a column
    "runtime.outcome_of",  # likewise
    "runtime.release_keys",  # only of ended jobs that the caller may cancel
    "runtime.put_in_lane",  # only of jobs of the actor that the same transaction has enqueued
    "assessments.create_assessment",
    "assessments.update_assessment_state",
    "assessments.put_cached_state",
    "assessments.get_cached_state",
    "operations.my_role",
    "operations.has_role",
    "operations.is_admin",
    "operations.may_change",
    "operations.my_email",
    "scoring.delete_profile",
    "operations.delete_project",
    "operations.delete_records",
    "operations.delete_likert_score",
    "operations.delete_bonus_window",
    "operations.delete_setting",
    "notifications.resend",  # only deliveries of the actor
    "notifications.ping",  # only endpoints of the actor
    "notifications.delete_endpoint",
}
PROVING = sorted(name for name in MAY_INSERT if name.startswith("proving."))
# Tables without rows of tenants.
EVERYBODYS = {"runtime.stages", "runtime.workers"}


def rows(psql, statement, *values):
    with psql.cursor(row_factory=psycopg.rows.tuple_row) as cursor:
        return cursor.execute(statement, values or None).fetchall()


def columns(psql, privilege: str) -> dict[str, set[str]]:
    """Return the columns of each table on which a service has this right."""
    found: dict[str, set[str]] = {}
    for table, column in rows(
        psql,
        f"""SELECT c.oid::regclass::text, a.attname::text FROM pg_class AS c
              JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
             WHERE c.relkind IN ('r', 'p', 'v') AND c.relnamespace::regnamespace::text IN {OURS}
               AND has_column_privilege('gristmill_service', c.oid, a.attnum, %s)""",
        privilege,
    ):
        found.setdefault(str(table), set()).add(str(column))
    return found


def test_a_service_writes_the_listed_columns_and_no_others(psql):
    """This covers every table and view."""
    assert columns(psql, "INSERT") == MAY_INSERT
    assert columns(psql, "UPDATE") == MAY_UPDATE
    assert not columns(psql, "REFERENCES")


def test_a_service_has_no_right_to_a_whole_table_but_to_read_it(psql):
    """Any other right would let it lock the table for everybody; a trigger would run with the rights of others."""
    found = rows(
        psql,
        f"""SELECT oid::regclass::text, privilege, role FROM pg_class
             CROSS JOIN unnest('{{INSERT,UPDATE,DELETE,TRUNCATE,TRIGGER,MAINTAIN,REFERENCES}}'::text[]) AS privilege
             CROSS JOIN unnest('{{gristmill_service,gristmill_gateway}}'::text[]) AS role
             WHERE relkind IN ('r', 'p', 'v') AND relnamespace::regnamespace::text IN {OURS}
               AND has_table_privilege(role, oid, privilege)""",
    )

    assert found == []


LOCKS = ("ROW SHARE", "ROW EXCLUSIVE", "SHARE UPDATE EXCLUSIVE", "SHARE", "SHARE ROW EXCLUSIVE", "EXCLUSIVE",
         "ACCESS EXCLUSIVE")  # fmt: skip


@pytest.mark.parametrize("mode", LOCKS)
def test_a_service_locks_no_table(psql, tenants, speak, mode):
    """One statement could stop everybody; a service may only read."""
    tables = rows(
        psql,
        f"""SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'p')
               AND relnamespace::regnamespace::text IN {OURS}""",
    )
    speak("alice")

    for (table,) in tables:
        error = refused(psql, f"LOCK TABLE {table} IN {mode} MODE")
        assert isinstance(error, errors.InsufficientPrivilege), table


def test_a_service_locks_no_row_of_others(psql, tenants, speak):
    """It can lock only rows that it may change."""
    tables = [str(name) for (name,) in rows(
        psql,
        f"""SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition
               AND relnamespace::regnamespace::text IN {OURS}
               AND has_table_privilege('gristmill_service', oid, 'SELECT')""",
    )]  # fmt: skip
    own = {"scoring.profiles": tenants["alice.profile"], "operations.projects": tenants["alice.project"]}
    speak("alice")

    for table in tables:
        for strength in ("UPDATE", "NO KEY UPDATE", "SHARE", "KEY SHARE"):
            if table in MAY_UPDATE:
                locked = rows(psql, f"SELECT * FROM {table} FOR {strength}")
                assert [row[0] for row in locked] == ([own[table]] if table in own else []), table
            else:
                error = refused(psql, f"SELECT FROM {table} FOR {strength}")
                assert isinstance(error, errors.InsufficientPrivilege), table


DELETES = {
    "scoring.delete_profile(%s)": "profile",
    "operations.delete_project(%s)": "project",
    "operations.delete_records(ARRAY[%s])": "record",
    "operations.delete_likert_score(%s)": "rating",
}


@pytest.mark.parametrize("call", DELETES)
def test_a_tenant_deletes_what_is_its_own(psql, tenants, speak, call):
    """By a function, under the policies of the table; rows of others look as if they did not exist."""
    ids = dict(tenants)
    for name in ("alice", "bob"):
        [(ids[f"{name}.record"],)] = rows(
            psql,
            """INSERT INTO operations.data_records ("projectId", type, source, content)
               VALUES (%s, 'TASK', 's', 'c') RETURNING id""",
            tenants[f"{name}.project"],
        )
        [(ids[f"{name}.rating"],)] = rows(
            psql,
            """INSERT INTO operations.likert_scores ("recordId", "userId", "realismScore", "qualityScore")
               VALUES (%s, %s, 4, 4) RETURNING id""",
            ids[f"{name}.record"],
            str(tenants[name]),
        )
    what = DELETES[call]
    gone = [(ids[f"alice.{what}"],)] if what == "record" else [(True,)]
    not_there = [] if what == "record" else [(False,)]
    speak("alice")

    assert rows(psql, f"SELECT {call}", ids[f"bob.{what}"]) == not_there
    assert rows(psql, f"SELECT {call}", ids[f"alice.{what}"]) == gone
    assert rows(psql, f"SELECT {call}", ids[f"alice.{what}"]) == not_there


@pytest.mark.parametrize("thing", ["profile", "project"])
def test_unfinished_jobs_of_what_a_tenant_deletes_have_an_end(psql, tenants, speak, thing):
    """Their history stays; a job that is gone without an end would count as lost."""
    schema = {"profile": "scoring", "project": "operations"}[thing]
    speak("alice")

    assert rows(psql, f"SELECT {schema}.delete_{thing}(%s)", tenants[f"alice.{thing}"]) == [(True,)]

    psql.execute("RESET ROLE")
    last = """SELECT DISTINCT ON (job_id) new_state, change_action, change_reason FROM runtime.transitions
                WHERE job_id NOT IN (SELECT id FROM runtime.jobs) ORDER BY job_id, version_to DESC"""
    ended = rows(psql, last)
    assert ended
    assert {(state.lower(), action, reason) for state, action, reason in ended} == {
        ("cancelled", "cancel", f"removed with its {thing}")
    }


def test_what_is_an_admins_only_an_admin_deletes(psql, tenants, speak):
    """Bonus windows and settings."""
    [(window,)] = rows(
        psql,
        """INSERT INTO operations.bonus_windows ("startTime", "endTime", "createdBy")
           VALUES (now(), now() + interval '1 day', %s) RETURNING id""",
        tenants["bob"],
    )
    psql.execute("INSERT INTO operations.system_settings (key, value) VALUES ('ai_provider', 'offline')")
    calls = "SELECT operations.delete_bonus_window(%s), operations.delete_setting('ai_provider')"

    speak("alice")
    assert rows(psql, calls, window) == [(False, False)]
    psql.execute("RESET ROLE")
    psql.execute("UPDATE operations.profiles SET role = 'ADMIN' WHERE id = %s", [tenants["alice"]])
    speak("alice")
    assert rows(psql, calls, window) == [(True, True)]


def test_the_public_has_no_right_on_any_table(psql):
    """A login that can only connect has no rights here."""
    granted = rows(
        psql,
        f"""SELECT c.oid::regclass::text, a.privilege_type FROM pg_class AS c CROSS JOIN aclexplode(c.relacl) AS a
             WHERE a.grantee = 0 AND c.relnamespace::regnamespace::text IN {OURS}""",
    )

    assert granted == []


def test_every_table_that_a_service_reads_has_row_level_security(psql):
    """Tables without rows of tenants are the exception."""
    found = rows(
        psql,
        f"""SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relrowsecurity
               AND relnamespace::regnamespace::text IN {OURS}
               AND has_table_privilege('gristmill_service', oid, 'SELECT')""",
    )

    assert {str(name) for (name,) in found} == EVERYBODYS


DEFINERS = f"""
    SELECT p.oid::regprocedure::text, format('%s.%s', pronamespace::regnamespace, proname), proconfig, prosrc,
           prorettype = 'trigger'::regtype, has_function_privilege('gristmill_service', p.oid, 'EXECUTE'),
           EXISTS (SELECT FROM aclexplode(coalesce(proacl, acldefault('f', proowner))) WHERE grantee = 0)
      FROM pg_proc AS p WHERE prosecdef AND pronamespace::regnamespace::text IN {OURS}"""


def test_functions_with_their_owners_rights_are_locked(psql):
    """They pin the search path, PUBLIC may not call them, a service may call the listed ones, each knows its table."""
    found = rows(psql, DEFINERS)

    assert found
    for name, plain, config, source, is_trigger, service, public in found:
        assert "search_path=pg_catalog, pg_temp" in (config or []), name
        assert not public, name
        assert service == (plain in MAY_CALL_WITH_OWNERS_RIGHTS), name
        assert not is_trigger or "TG_RELID" in str(source), name


def test_no_view_reads_with_its_owners_rights_what_its_reader_may_not(psql):
    """Views use the rights of the reader, except those that filter rows themselves."""
    found = rows(
        psql,
        f"""SELECT oid::regclass::text FROM pg_class WHERE relkind = 'v' AND relnamespace::regnamespace::text IN {OURS}
               AND NOT coalesce('security_invoker=true' = ANY (reloptions), false)
               AND has_table_privilege('gristmill_service', oid, 'SELECT')""",
    )

    assert {str(name) for (name,) in found} <= {"assessments.assessment_state_audit"}


@pytest.fixture
def tenants(psql):
    """Two tenants, each with a profile, a job, a project with a job, and an assessment; a third one has nothing."""
    ids: dict[str, uuid.UUID] = {"stranger": uuid.uuid4()}
    for name in ("alice", "bob"):
        [(user,)] = rows(psql, "INSERT INTO auth.users (email) VALUES (%s) RETURNING id", f"{name}@example.test")
        ids[name] = user
        psql.execute("UPDATE operations.profiles SET role = 'USER' WHERE id = %s", [user])
        with psql.transaction():
            psql.execute("SELECT set_config('gristmill.user_id', %s, true)", [str(user)])
            [(profile,)] = rows(psql, "INSERT INTO scoring.profiles (name) VALUES (%s) RETURNING id", name)
            [(job,)] = rows(psql, "SELECT scoring.enqueue_score(%s, 'Judge.')", profile)
            [(project,)] = rows(
                psql, 'INSERT INTO operations.projects (name, "ownerId") VALUES (%s, %s) RETURNING id', name, user
            )
            [(ingest,)] = rows(psql, "SELECT operations.enqueue_ingest(%s, 'TASK', 'content')", project)
            psql.execute("SELECT operations.enqueue_analytics(%s)", [project])
            psql.execute(
                "INSERT INTO assessments.assessment_states (assessment_id, request_data) VALUES (%s, '{}')", [name]
            )
            for table in PROVING:
                psql.execute(f"INSERT INTO {table} DEFAULT VALUES")
        ids |= {f"{name}.profile": profile, f"{name}.job": job, f"{name}.project": project, f"{name}.ingest": ingest}
    return ids


@pytest.fixture
def speak(psql, tenants):
    """Act as a service for a tenant until the test ends; everything is rolled back."""
    with psql.transaction(force_rollback=True):

        def speak(name: str | None):
            psql.execute("RESET ROLE")
            psql.execute("SET LOCAL ROLE gristmill_service")
            psql.execute("SELECT set_config('gristmill.user_id', %s, true)", [str(tenants[name]) if name else ""])
            return psql

        yield speak


def refused(psql, statement: str, *values: object) -> psycopg.Error:
    with pytest.raises(psycopg.Error) as caught, psql.transaction():
        psql.execute(statement, values or None)
    return caught.value


def test_a_stranger_sees_no_row_of_any_tenant(psql, tenants, speak):
    """This holds for every table and view, also for new ones."""
    readable = rows(
        psql,
        f"""SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'p', 'v') AND NOT relispartition
               AND relnamespace::regnamespace::text IN {OURS}
               AND has_table_privilege('gristmill_service', oid, 'SELECT')""",
    )
    speak("stranger")

    seen = {str(name): len(rows(psql, f"SELECT * FROM {name}")) for (name,) in readable}

    assert {name: count for name, count in seen.items() if count and name not in EVERYBODYS} == {}


@pytest.mark.parametrize("table", PROVING)
def test_a_table_made_by_attach_lifecycle_keeps_tenants_apart(psql, tenants, speak, table):
    """In any domain, a tenant sees and enqueues only its own jobs, and a service without a user enqueues none."""
    assert len(rows(psql, f"SELECT owner_id FROM {table}")) == 2

    speak("alice")
    assert rows(psql, f"SELECT owner_id FROM {table}") == [(tenants["alice"],)]
    psql.execute(f"INSERT INTO {table} (idempotency_key) VALUES ('k')")
    assert isinstance(refused(psql, f"INSERT INTO {table} (idempotency_key) VALUES (' k')"), errors.CheckViolation)

    speak(None)
    assert rows(psql, f"SELECT owner_id FROM {table}") == []
    assert isinstance(refused(psql, f"INSERT INTO {table} (priority) VALUES (1)"), errors.InsufficientPrivilege)


def test_no_trigger_function_serves_a_table_of_ones_own(psql, tenants, speak):
    """To create a trigger needs EXECUTE on its function, which only the owner has."""
    functions = rows(
        psql,
        f"""SELECT p.oid::regproc::text FROM pg_proc AS p
             WHERE prorettype = 'trigger'::regtype AND pronamespace::regnamespace::text IN {OURS}""",
    )
    speak("alice")
    psql.execute("CREATE TEMP TABLE u (id uuid, email text)")

    assert functions
    for (function,) in functions:
        error = refused(psql, f"CREATE TRIGGER t AFTER UPDATE ON u FOR EACH ROW EXECUTE FUNCTION {function}()")
        assert isinstance(error, errors.InsufficientPrivilege), function


def test_a_borrowed_guard_would_not_run_for_another_table(psql, tenants):
    """This holds even for a role that could create the trigger."""
    guards = rows(psql, DEFINERS)
    with psql.transaction(force_rollback=True):
        psql.execute("CREATE TEMP TABLE u (id uuid, email text)")
        for name, plain, _, _, is_trigger, *_ in guards:
            if not is_trigger:
                continue
            with psql.transaction(force_rollback=True):
                tables = "REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows"
                psql.execute(
                    f"CREATE TRIGGER t AFTER UPDATE ON u {tables} FOR EACH STATEMENT EXECUTE FUNCTION {plain}()"
                )
                error = refused(psql, "UPDATE u SET email = 'victim@example.test'")
                assert isinstance(error, errors.InsufficientPrivilege), name


KEPT_BY_THE_KERNEL = (
    "id", "status", "version", "retry_count", "max_retries", "timeout_seconds", "progress", "dispatched_at",
    "lease_owner", "deadline_at", "error_message", "change_action", "change_reason", "created_at", "started_at",
    "completed_at", "updated_at", "owner_id", "prompt", "llm_response", "parsed_score", "profile_id", "priority",
    "due_at", "idempotency_key",
)  # fmt: skip


@pytest.mark.parametrize("column", KEPT_BY_THE_KERNEL)
def test_a_tenant_changes_no_column_of_its_own_job(psql, tenants, speak, column):
    """Neither tickets, times, attempts nor results. To cancel, it calls a function."""
    speak("alice")

    error = refused(psql, f"UPDATE scoring.scoring_jobs SET {column} = DEFAULT WHERE id = %s", tenants["alice.job"])

    assert isinstance(error, errors.InsufficientPrivilege)


@pytest.mark.parametrize("column", sorted(set(KEPT_BY_THE_KERNEL) - MAY_INSERT["scoring.scoring_jobs"]))
def test_a_new_job_cannot_bring_what_the_kernel_keeps(psql, tenants, speak, column):
    """Not even its id, which could be the id of another tenant's job in another table."""
    speak("alice")

    error = refused(
        psql,
        f"INSERT INTO scoring.scoring_jobs (profile_id, prompt, {column}) VALUES (%s, 'x', DEFAULT)",
        tenants["alice.profile"],
    )

    assert isinstance(error, errors.InsufficientPrivilege)


@pytest.mark.parametrize("due", ["infinity", "-infinity", "10000-01-01", "9999-12-31T23:59:59-14:00", "4000-01-01 BC"])
def test_a_due_time_that_nobody_could_read_is_refused(psql, tenants, speak, due):
    """Otherwise every reader of the row would fail."""
    speak("alice")

    error = refused(psql, "SELECT scoring.enqueue_score(%s, 'x', p_due_at => %s)", tenants["alice.profile"], due)

    assert isinstance(error, errors.CheckViolation)


def test_a_job_belongs_to_the_owner_of_its_profile(psql, tenants):
    """It does not matter who enqueues it, and the owner cannot be changed."""
    found = rows(psql, "SELECT id, owner_id FROM scoring.scoring_jobs")
    assert {(tenants["alice.job"], tenants["alice"]), (tenants["bob.job"], tenants["bob"])} == set(found)

    [(job,)] = rows(psql, "SELECT scoring.enqueue_score(%s, 'by an operator')", tenants["bob.profile"])

    assert rows(psql, "SELECT owner_id FROM scoring.scoring_jobs WHERE id = %s", job) == [(tenants["bob"],)]
    error = refused(psql, "UPDATE scoring.scoring_jobs SET owner_id = NULL, version = version + 1 WHERE id = %s", job)
    assert "owner" in str(error)


def test_two_tenants_never_meet_in_a_key(psql, tenants, speak):
    """Each gets its own job; the other one's is neither returned nor revealed."""
    jobs = []
    for name in ("alice", "bob"):
        speak(name)
        jobs += rows(
            psql, "SELECT scoring.enqueue_score(%s, 'x', p_idempotency_key => 'k')", tenants[f"{name}.profile"]
        )
        jobs += rows(
            psql,
            "SELECT operations.enqueue_ingest(%s, 'TASK', %s, p_idempotency_key => 'k')",
            tenants[f"{name}.project"],
            name.encode(),
        )

    assert len(set(jobs)) == 4


@pytest.mark.parametrize(
    ("first", "second", "differs"),
    [
        ("scoring.enqueue_score(%(profile)s, 'x'", "scoring.enqueue_score(%(profile)s, 'y'", "prompt"),
        ("scoring.enqueue_score(%(profile)s, 'x'", "scoring.enqueue_score(%(profile)s, 'x', 'other'", "model_name"),
        (
            "operations.enqueue_ingest(%(project)s, 'TASK', 'a'",
            "operations.enqueue_ingest(%(project)s, 'FEEDBACK', 'b'",
            "type, content",
        ),
        (
            "operations.enqueue_analytics(%(project)s",
            "operations.enqueue_analytics(%(project)s, 'TASK'",
            "type",
        ),
    ],
)
def test_a_key_with_other_content_is_refused_naming_what_differs(  # noqa: PLR0917 - pytest passes them by name
    psql, tenants, speak, first, second, differs
):
    """The same content again, also with other options, returns the first job."""
    speak("alice")
    ids = {"profile": tenants["alice.profile"], "project": tenants["alice.project"]}
    key = ", p_idempotency_key => 'k'"

    one = psql.execute(f"SELECT {first}{key})", ids).fetchone()
    again = psql.execute(f"SELECT {first}{key}, p_priority => 9)", ids).fetchone()
    with pytest.raises(errors.UniqueViolation, match=f"another {differs}, got 'k'"), psql.transaction():
        psql.execute(f"SELECT {second}{key})", ids)

    assert one == again


def test_a_tenant_cancels_its_own_jobs_only(psql, tenants, speak):
    """One function does it for every table; another tenant's job looks as if it did not exist."""
    speak("alice")

    assert rows(psql, "SELECT runtime.cancel(%s)", tenants["bob.job"]) == [(False,)]
    assert rows(psql, "SELECT runtime.cancel(%s)", tenants["bob.ingest"]) == [(False,)]
    assert rows(psql, "SELECT runtime.cancel(%s, 'changed my mind')", tenants["alice.job"]) == [(True,)]
    assert rows(psql, "SELECT runtime.cancel(%s)", tenants["alice.job"]) == [(False,)]
    assert rows(psql, "SELECT runtime.cancel(%s)", tenants["alice.ingest"]) == [(True,)]

    psql.execute("RESET ROLE")
    ended = rows(psql, "SELECT id, status, error_message FROM scoring.scoring_jobs ORDER BY id")
    assert [(id_, status) for id_, status, _ in ended] == sorted(
        [(tenants["alice.job"], "cancelled"), (tenants["bob.job"], "pending")]
    )


def test_a_tenant_reads_the_history_of_its_own_jobs_only(psql, tenants, speak):
    """As docs/enqueue.md promises: the history of the jobs that it may read."""
    speak("alice")

    seen = {id_ for (id_,) in rows(psql, "SELECT job_id FROM runtime.transitions WHERE stage = 'scoring.score'")}

    assert seen == {tenants["alice.job"]}


def test_a_service_cannot_pass_for_one_of_our_processes(psql, tenants, speak):
    """History names the role that claimed to be one."""
    speak("alice")
    psql.execute("SET LOCAL gristmill.changed_by = 'worker:0198aaaa-0000-7000-8000-000000000000'")
    psql.execute("SELECT runtime.cancel(%s)", [tenants["alice.job"]])

    [(by,)] = rows(
        psql, "SELECT changed_by FROM runtime.transitions WHERE job_id = %s AND version_to = 2", tenants["alice.job"]
    )

    assert str(by).startswith("gristmill_service as worker:")


def test_a_file_of_another_project_cannot_be_ingested(psql, tenants, speak):
    """A user with the role USER reads the list of all files, but not their content."""
    [(upload,)] = rows(psql, 'SELECT "uploadId" FROM operations.ingest_jobs WHERE id = %s', tenants["bob.ingest"])
    speak("alice")

    error = refused(
        psql,
        """INSERT INTO operations.ingest_jobs ("projectId", type, source, "uploadId")
           VALUES (%s, 'TASK', 'csv:x', %s)""",
        tenants["alice.project"],
        upload,
    )

    assert isinstance(error, errors.InsufficientPrivilege)


def test_an_actor_that_is_no_id_is_refused(psql, tenants, speak):
    """One line names the setting."""
    speak("alice")
    psql.execute("SET LOCAL gristmill.user_id = 'Robert''); DROP TABLE'")

    assert "gristmill.user_id must be a UUID" in str(refused(psql, "SELECT count(*) FROM scoring.profiles"))


@pytest.mark.parametrize("role", ["gristmill_worker", "gristmill_dispatcher", "gristmill_operator"])
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE runtime.transitions SET changed_by = 'nobody'",
        "DELETE FROM runtime.transitions",
        "INSERT INTO runtime.transitions SELECT * FROM runtime.transitions",
        "DELETE FROM runtime.transitions_default",
        "UPDATE runtime.lifecycles SET transitions = '{}'",
        "TABLE runtime.actor_keys",
    ],
)
def test_not_even_our_own_processes_write_history(psql, tenants, role, statement):
    """Only guards write it, with the rights of the owner."""
    with psql.transaction(force_rollback=True):
        psql.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(role)))
        assert isinstance(refused(psql, statement), errors.InsufficientPrivilege)


@pytest.mark.parametrize("age", ["0 days", "-400 days", "30 days", None])
def test_the_history_of_the_last_month_is_nobodys_to_drop(psql, tenants, age):
    """This holds for every given retention."""
    with psql.transaction(force_rollback=True):
        psql.execute("SET LOCAL ROLE gristmill_dispatcher")
        error = refused(psql, "SELECT runtime.drop_transition_partitions(%s::interval)", age)

    assert "31 days" in str(error)
