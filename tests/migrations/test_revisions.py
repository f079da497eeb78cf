"""Revisions run up, down and up again, say why they exist, and wait for each other."""

import inspect
import os
import re
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from alembic import command
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from gristmill_testing.waiting import until
from migrations.upgrade import configured, move
from models.domains import Domain
from tests.conftest import alembic_config, migrate, sqlalchemy_url
from tests.support.paths import ROOT
from workers.runtime.refusals import Failed

LOCK_KEY = 0x6772_6973_746D  # migrations/env.py

# Everything that a revision can create and a downgrade may fail to remove, as comparable rows.
SCHEMA = """
SELECT 'column', format('%I.%I.%I %s %s %s', n.nspname, c.relname, a.attname, format_type(a.atttypid, a.atttypmod),
                        a.attnotnull, pg_get_expr(d.adbin, d.adrelid))
  FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
  LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 WHERE a.attnum > 0 AND NOT a.attisdropped AND n.nspname !~ '^(pg_|information_schema|public)'
UNION ALL
SELECT 'constraint', format('%s %I %s', conrelid::regclass, conname, pg_get_constraintdef(o.oid))
  FROM pg_constraint AS o JOIN pg_namespace AS n ON n.oid = o.connamespace
 WHERE n.nspname !~ '^(pg_|information_schema|public)'
UNION ALL
SELECT 'index', indexdef FROM pg_indexes WHERE schemaname !~ '^(pg_|public)'
UNION ALL
SELECT 'function', pg_get_functiondef(p.oid) FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
 WHERE n.nspname !~ '^(pg_|information_schema|public)'
UNION ALL
SELECT 'trigger', pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
UNION ALL
SELECT 'view', definition FROM pg_views WHERE schemaname !~ '^(pg_|information_schema)'
UNION ALL
SELECT 'policy', format('%s %s %s %s %s', schemaname, tablename, policyname, qual, with_check) FROM pg_policies
UNION ALL
SELECT 'stage', name || ' ' || table_name FROM runtime.stages
UNION ALL
SELECT 'rights', format('%s %s', name, array(SELECT one::text FROM unnest(acl) AS one ORDER BY one::text))
  FROM (SELECT oid::regclass::text, relacl, relnamespace FROM pg_class
         UNION ALL
        SELECT p.oid::regprocedure::text, proacl, pronamespace FROM pg_proc AS p
         UNION ALL
        SELECT a.attrelid::regclass || '.' || attname, attacl, relnamespace
          FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = attrelid
         WHERE attacl IS NOT NULL AND attacl <> '{}') AS granted (name, acl, namespace)
 WHERE namespace::regnamespace::text !~ '^(pg_|information_schema|public)'
ORDER BY 1, 2
"""
REVISIONS = list(ScriptDirectory(str(ROOT / "migrations")).walk_revisions())


def schema(url: str) -> list[tuple[str, str]]:
    with psycopg.connect(url) as connection:
        return connection.execute(SCHEMA).fetchall()


def schemas(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT nspname::text FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema)'"
        ).fetchall()
    return {name for (name,) in rows}


def test_up_down_up_makes_the_same_schema_again(empty_database_url):
    """The downgrade removes everything."""
    migrate(empty_database_url)
    first = schema(empty_database_url)

    migrate(empty_database_url, to="base")
    assert schemas(empty_database_url) == {"public"}

    migrate(empty_database_url)
    assert schema(empty_database_url) == first


def test_each_step_down_can_be_taken_back(empty_database_url):
    """After a bad release an operator goes one revision back and forward, not all the way."""
    migrate(empty_database_url)
    newest = schema(empty_database_url)
    config = alembic_config(url=empty_database_url)

    for steps in range(1, len(REVISIONS) + 1):
        command.downgrade(config, f"-{steps}")
        command.upgrade(config, "head")
        assert schema(empty_database_url) == newest


def test_a_downgrade_removes_the_jobs_of_a_table_from_the_view(empty_database_url):
    """``runtime.jobs`` and the stages have only the remaining tables."""
    migrate(empty_database_url)
    command.downgrade(alembic_config(url=empty_database_url), "0001")

    with psycopg.connect(empty_database_url) as connection:
        assert connection.execute("SELECT name FROM runtime.stages").fetchall() == []
        assert connection.execute("SELECT to_regclass('runtime.jobs')").fetchone() == (None,)


def test_models_and_revisions_describe_one_schema(empty_database_url):
    """``alembic check`` finds no difference."""
    migrate(empty_database_url)

    run = alembic("check", url=empty_database_url)
    said, _ = run.communicate(timeout=60)

    assert run.returncode == 0, said
    assert "No new upgrade operations detected" in said


@pytest.mark.parametrize("revision", REVISIONS, ids=lambda revision: revision.revision)
def test_a_revision_says_why_and_whether_the_previous_release_survives_it(revision):
    """Its docstring answers what an operator asks before a deployment."""
    assert re.search(r"^Why: .+", revision.doc + revision.longdoc, re.MULTILINE)
    assert re.search(r"^Previous release: .+", revision.longdoc, re.MULTILINE)
    assert callable(revision.module.downgrade)
    assert "pass" not in inspect.getsource(revision.module.downgrade).split()


def test_there_is_one_head():
    """With two heads the newest schema would not be defined."""
    assert len(ScriptDirectory(str(ROOT / "migrations")).get_heads()) == 1


def alembic(*arguments: str, url: str) -> "subprocess.Popen[str]":
    """Start the ``alembic`` command line on the database of ``url``."""
    command_line = [sys.executable, "-m", "alembic", *arguments]
    environment = {**os.environ, "DATABASE_URL": url}
    return subprocess.Popen(
        command_line, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_two_migrations_at_once_both_succeed(empty_database_url):
    """If two containers of a deployment start together, one migrates and the other finds nothing to do."""
    runs = [alembic("upgrade", "head", url=empty_database_url) for _ in range(2)]

    said = [run.communicate(timeout=60)[0] for run in runs]

    assert [run.returncode for run in runs] == [0, 0], said
    assert "scoring" in schemas(empty_database_url)


async def test_a_migration_waits_for_a_running_one(empty_database_url):
    """It waits for a lock that a migration holds for its whole run, and holds no lock at its end."""
    with closing(psycopg.connect(empty_database_url, autocommit=True)) as other:
        other.execute("SELECT pg_advisory_lock(%s)", [LOCK_KEY])
        migrating = threading.Thread(target=migrate, args=(empty_database_url,))
        migrating.start()
        # Between two attempts: it has set its timeouts and holds no lock.
        looks = """SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
                        AND state = 'idle' AND query = 'COMMIT'"""
        await until(lambda: other.execute(looks).fetchone())
        assert "runtime" not in schemas(empty_database_url)

        other.execute("SELECT pg_advisory_unlock(%s)", [LOCK_KEY])
        migrating.join(timeout=30)

        assert "runtime" in schemas(empty_database_url)
        await until(
            lambda: other.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone() == (0,)
        )


def test_a_migration_that_cannot_get_the_lock_names_its_holder(empty_database_url):
    """Every login that may connect can hold that lock, so the error names the session to end."""
    with closing(psycopg.connect(empty_database_url, autocommit=True)) as admin:
        admin.execute("CREATE ROLE migration_stranger LOGIN PASSWORD 'pw'")
        try:
            url = psycopg.conninfo.make_conninfo(empty_database_url, user="migration_stranger", password="pw")
            with closing(psycopg.connect(url, autocommit=True)) as other:
                other.execute("SELECT pg_advisory_lock(%s)", [LOCK_KEY])

                with pytest.raises(CommandError, match=f"process {other.info.backend_pid} of role migration_stranger"):
                    migrate(empty_database_url)
        finally:
            admin.execute("DROP ROLE migration_stranger")

    migrate(empty_database_url)


async def test_a_given_connection_is_used_and_returned_unchanged(empty_database_url):
    """A caller with an async engine migrates through ``run_sync``. Afterwards its session has its own timeouts."""
    engine = create_async_engine(sqlalchemy_url(empty_database_url), poolclass=NullPool)

    def upgrade(connection) -> None:
        command.upgrade(alembic_config(connection=connection), "head")

    async with engine.connect() as connection:
        before = (await connection.exec_driver_sql("SHOW lock_timeout")).scalar()
        await connection.run_sync(upgrade)
        assert (await connection.exec_driver_sql("SHOW lock_timeout")).scalar() == before
    await engine.dispose()

    assert "scoring" in schemas(empty_database_url)


def test_sql_without_a_database_is_refused():
    """Revisions read the database, so a script made offline would be wrong."""
    with pytest.raises(SystemExit, match="offline mode is not supported"):
        command.upgrade(alembic_config(), "head", sql=True)


def test_a_migrated_database_accepts_a_job_at_once(empty_database_url):
    """No other preparation is needed."""
    migrate(empty_database_url)
    engine = create_engine(sqlalchemy_url(empty_database_url), poolclass=NullPool)

    with engine.begin() as connection:
        profile = connection.exec_driver_sql("INSERT INTO scoring.profiles (name) VALUES ('Ada') RETURNING id").scalar()
        job = connection.exec_driver_sql("SELECT scoring.enqueue_score(%s, 'Judge.')", (profile,)).scalar()
        reason = connection.exec_driver_sql("SELECT wait_reason FROM runtime.jobs WHERE id = %s", (job,)).scalar()

    assert reason == "no worker for queue scoring"


def test_schedules_of_an_older_release_keep_their_times_and_get_valid_values(empty_database_url):
    """Of six fields (seconds first) the last five are kept. A schedule that never fired is paused, not deleted."""
    migrate(empty_database_url, to="0004")
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        for name, cron in {
            "five": "0 9 * * 1",
            "blanks": " 0\t9  * * 1 ",
            "six": "0 0 9 * * 1",
            "words": "every day",
            " ": "0 0 * * *",
            "": "0 1 * * *",
            " five": "0 2 * * *",
            "li\nne": "0 3 * * *",
            "cafe\N{COMBINING ACUTE ACCENT}": "0 4 * * *",
        }.items():
            connection.execute(
                "INSERT INTO runtime.schedules (name, action, cron) VALUES (%s, 'prune', %s)", [name, cron]
            )
        connection.execute(
            "INSERT INTO runtime.schedules (name, stage, cron, payload, last_scheduled_for) "
            "VALUES ('list', 's', '* * * * *', '[]', 'infinity')"
        )
        connection.execute("INSERT INTO runtime.ticks (schedule, scheduled_for, fired_by) VALUES (' five', now(), 'b')")

    migrate(empty_database_url)

    with psycopg.connect(empty_database_url) as connection:
        rows = {
            name: (cron, enabled)
            for name, cron, enabled in connection.execute("SELECT name, cron, enabled FROM runtime.schedules")
        }
        ticks = connection.execute("SELECT schedule FROM runtime.ticks").fetchall()
    assert {rows.pop("unnamed"), rows.pop("unnamed-2")} == {("0 0 * * *", True), ("0 1 * * *", True)}
    assert rows == {
        "five": ("0 9 * * 1", True),
        "blanks": ("0 9 * * 1", True),
        "six": ("0 9 * * 1", True),
        "words": ("every day", False),
        "five-2": ("0 2 * * *", True),
        "line": ("0 3 * * *", True),
        "caf\N{LATIN SMALL LETTER E WITH ACUTE}": ("0 4 * * *", True),
        "list": ("* * * * *", False),
    }
    assert ticks == [("five-2",)]


def test_answers_of_the_last_day_are_carried_over_and_back(empty_database_url):
    """Those of older days and those without an answer are left; the scores come back from their jobs."""
    migrate(empty_database_url, to="0020")
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute("INSERT INTO scoring.profiles (name) VALUES ('p')")
        connection.execute("SELECT scoring.enqueue_score(id, 'Judge.') FROM scoring.profiles, generate_series(1, 3)")
        connection.execute("SET session_replication_role = replica")
        connection.execute("UPDATE scoring.scoring_jobs SET parsed_score = '{\"overall\": 5}'")
        connection.execute(
            "INSERT INTO scoring.answers (fingerprint, job_id, job_version, model, llm_response, parsed_score, "
            "claimed_at, answered_at) SELECT sha256(id::text::bytea), id, 2, 'm', '{\"choices\": []}', parsed_score, "
            "now(), CASE row_number() OVER (ORDER BY id) WHEN 1 THEN now() - interval '1 hour' "
            "WHEN 2 THEN now() - interval '25 hours' END FROM scoring.scoring_jobs"
        )

    migrate(empty_database_url, to="0021")
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        kept = connection.execute(
            "SELECT fingerprint, job_id, raw, model, expires_at - created_at FROM llm.answers"
        ).fetchall()
        assert connection.execute("SELECT to_regclass('scoring.answers')").fetchone() == (None,)
    command.downgrade(alembic_config(url=empty_database_url), "0020")

    [(fingerprint, job_id, raw, model, lasts)] = kept
    assert (raw, model, lasts.total_seconds()) == ({"choices": []}, "m", 86_400)
    with psycopg.connect(empty_database_url) as connection:
        back = connection.execute(
            "SELECT fingerprint, job_id, job_version, model, llm_response, parsed_score FROM scoring.answers"
        ).fetchall()
    assert back == [(fingerprint, job_id, 2, "m", {"choices": []}, {"overall": 5})]


FILES = """SELECT oid::regclass::text, pg_relation_filenode(oid) FROM pg_class
            WHERE relkind = 'r' AND relnamespace::regnamespace::text !~ '^(pg_|information_schema|public)'"""


def test_longer_names_of_states_rewrite_no_table(empty_database_url):
    """Revision 0013 must not rewrite large tables: each table and partition of the history keeps its file."""
    migrate(empty_database_url, to="0012")
    with psycopg.connect(empty_database_url) as connection:
        before: dict[str, int] = dict(connection.execute(FILES).fetchall())

    migrate(empty_database_url, to="0013")

    with psycopg.connect(empty_database_url) as connection:
        after: dict[str, int] = dict(connection.execute(FILES).fetchall())
    assert {table: file for table, file in after.items() if table in before} == before
    assert any("transitions_2" in table for table in before)


def test_revision_0013_can_be_run_again_where_it_was_interrupted(empty_database_url):
    """Its indexes are made outside a transaction. The parts committed before must not stop the second run."""
    migrate(empty_database_url, to="0013")
    made = schema(empty_database_url)
    command.stamp(alembic_config(url=empty_database_url), "0012")

    migrate(empty_database_url, to="0013")

    assert schema(empty_database_url) == made


@pytest.mark.parametrize(
    "made",
    ["CREATE TEMP VIEW mine AS SELECT * FROM runtime.jobs", "CREATE TEMP TABLE mine (job scoring.scoring_jobs)"],
)
def test_a_migration_that_a_temporary_object_stops_names_its_owner(empty_database_url, made):
    """Every login that may read a table can make a view on it, so the error names the session to end."""
    migrate(empty_database_url, to="0012")
    with closing(psycopg.connect(empty_database_url, autocommit=True)) as other:
        other.execute(made)
        other.execute("INSERT INTO mine DEFAULT VALUES" if "TABLE" in made else "SELECT 1")

        with pytest.raises(
            Failed, match=f"mine of role {other.info.user}, process {other.info.backend_pid}: end those"
        ):
            move(empty_database_url)

    [own, *_] = move(empty_database_url)
    assert own.after.current == own.after.head


def test_revision_0026_counts_the_jobs_that_are_there(empty_database_url):
    """It makes the fingerprints of their errors, also for a table that another package made, and goes down and up."""
    migrate(empty_database_url, to="0024")
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute("INSERT INTO scoring.profiles (name) VALUES ('p')")
        connection.execute("SELECT scoring.enqueue_score(id, 'Judge.') FROM scoring.profiles, generate_series(1, 5)")
        connection.execute(
            "UPDATE scoring.scoring_jobs SET status = 'cancelled', version = 2, completed_at = now(), "
            "error_message = 'took 17 s' WHERE id IN (SELECT id FROM scoring.scoring_jobs LIMIT 2)"
        )
    counts = "SELECT stage, state, jobs FROM runtime.counts ORDER BY 1, 2"
    for _ in range(2):
        migrate(empty_database_url)

        with psycopg.connect(empty_database_url, autocommit=True) as connection:
            assert connection.execute(counts).fetchall() == [
                ("scoring.score", "cancelled", 2),
                ("scoring.score", "pending", 3),
            ]
            found = connection.execute(
                "SELECT DISTINCT error_fingerprint = runtime.error_fingerprint('scoring.score', 'took 2 s') "
                "FROM scoring.scoring_jobs WHERE error_message IS NOT NULL"
            ).fetchall()
            assert found == [(True,)]
            unchecked = "SELECT conname FROM pg_constraint WHERE NOT convalidated AND conname ~ '(url|parent|print)$'"
            assert connection.execute(unchecked).fetchall() == []
            assert connection.execute("SELECT count(*) FROM runtime.minute_counts").fetchone() == (0,)
        command.downgrade(alembic_config(url=empty_database_url), "0024")


def test_revision_0026_can_be_run_again_where_it_was_interrupted(empty_database_url):
    """Its last steps run outside a transaction. The parts committed before must not stop the second run."""
    migrate(empty_database_url, to="0026")
    made = schema(empty_database_url)
    command.stamp(alembic_config(url=empty_database_url), "0024")

    migrate(empty_database_url, to="0026")

    assert schema(empty_database_url) == made


PACKAGE = """
import sqlalchemy as sa
from alembic import op
from migrations.kernel.v3 import JobTable, Step, attach_lifecycle, detach_lifecycle, job_columns

revision = "0001"
down_revision = None
T = JobTable(
    schema="parcels",
    table="parcel_jobs",
    steps=[
        Step(stage="parcels.pack", ready="OPEN", running="PACKING", done="PACKED"),
        Step(stage="parcels.send", ready="PACKED", running="SENDING", done="SENT"),
    ],
    status="phase",
    error_message="trouble",
)

def upgrade():
    op.execute("CREATE SCHEMA parcels")
    op.create_table("parcel_jobs", *job_columns(T), schema="parcels")
    attach_lifecycle(T)

def downgrade():
    detach_lifecycle(T)
    op.drop_table("parcel_jobs", schema="parcels")
    op.execute("DROP SCHEMA parcels")
"""


def parcels(folder: Path) -> Domain:
    """Write the revision of a package that knows the third generation of the kernel's helpers."""
    (folder / "migrations").mkdir()
    (folder / "migrations" / "0001_parcels.py").write_text(PACKAGE)
    return Domain(name="parcels", package="parcels", distribution="parcels", folder=folder)


@pytest.mark.parametrize("first", ["0024", "0026", "head"])
def test_a_table_of_a_package_gets_what_revision_0026_gives(empty_database_url, tmp_path, first):
    """Whether the package's revision ran before it or after it."""
    domain = parcels(tmp_path)
    migrate(empty_database_url, to=first)
    command.upgrade(configured(empty_database_url, domain), "head")
    migrate(empty_database_url)

    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        job = connection.execute(
            "INSERT INTO parcels.parcel_jobs (callback_url, idempotency_key) VALUES ('https://a.example', 'k') "
            "RETURNING id"
        ).fetchone()
        for phase in ("PACKING", "PACKED", "SENDING", "failed"):
            connection.execute("UPDATE parcels.parcel_jobs SET dispatched_at = now()")
            connection.execute(
                "UPDATE parcels.parcel_jobs SET phase = %(phase)s::varchar, version = version + 1, "
                "lease_owner = coalesce(lease_owner, gen_random_uuid()), trouble = 'no ' || version, "
                "completed_at = CASE %(phase)s::varchar WHEN 'failed' THEN now() END",
                {"phase": phase},
            )
        assert connection.execute("SELECT stage, state, jobs FROM runtime.counts").fetchall() == [
            ("parcels.send", "failed", 1)
        ]
        assert connection.execute("SELECT job_id, stage, status FROM runtime.notices").fetchall() == [
            (*(job or ()), "parcels.send", "failed")
        ]
        lists = (
            "SELECT count(*) FROM pg_indexes WHERE tablename = 'parcel_jobs' AND indexname ~ '(listed|owned|errors)'"
        )
        assert connection.execute(lists).fetchone() == (5,)
        prints = "SELECT error_fingerprint = runtime.error_fingerprint('parcels.send', 'no 9') FROM runtime.jobs"
        assert connection.execute(prints).fetchall() == [(True,)]
        released = "SELECT runtime.release_keys('parcels.parcel_jobs', ARRAY[id]) FROM parcels.parcel_jobs"
        assert connection.execute(released).fetchall() == [(1,)]
        connection.execute("DELETE FROM parcels.parcel_jobs")
        assert connection.execute("SELECT * FROM runtime.counts").fetchall() == []
        connection.execute("INSERT INTO parcels.parcel_jobs DEFAULT VALUES")

    command.downgrade(configured(empty_database_url, domain), "base")
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        assert connection.execute("SELECT * FROM runtime.count_deltas").fetchall() == []
