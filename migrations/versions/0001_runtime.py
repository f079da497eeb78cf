"""Create the kernel's schema: transitions by month, lifecycles, stages, workers, schedules.

Why: every job table of every later revision is guarded, dispatched and shown by what is made here.
Previous release: there is none.

``runtime.jobs`` is rebuilt from ``runtime.lifecycles`` whenever a lifecycle is attached, so that a new job table is
listed without editing this view. PostgreSQL 18 is required (``uuidv7()``).

Revision ID: 0001
Revises:
Created: 2026-11-21
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

NOW = sa.func.now()
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.execute("CREATE SCHEMA runtime")
    _transitions()
    _lifecycles()
    _processes()
    _schedules()
    for statement in (ROLES, ENSURE_PARTITIONS, DROP_PARTITIONS, REFUSE, HAS_WORKER, REBUILD_JOBS_VIEW):
        op.execute(statement)
    op.execute(PARTITION_RIGHTS)
    op.execute("SELECT runtime.ensure_transition_partitions(3)")
    op.execute("SELECT runtime.rebuild_jobs_view()")


def downgrade() -> None:
    # The roles stay: they belong to the cluster, and other databases of it may use them.
    op.execute("DROP SCHEMA runtime CASCADE")


def _transitions() -> None:
    op.create_table(
        "transitions",
        sa.Column("job_id", sa.Uuid, nullable=False),
        sa.Column("version_to", sa.Integer, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("version_from", sa.Integer),
        sa.Column("stage", sa.String(100), nullable=False),
        sa.Column("old_state", sa.String(20)),
        sa.Column("new_state", sa.String(20), nullable=False),
        sa.Column("changed_by", sa.String(255)),
        sa.Column("change_reason", sa.Text),
        sa.Column("change_action", sa.String(100)),
        sa.Column("context", pg.JSONB),
        sa.Column("ip_address", pg.INET),
        sa.Column("user_agent", sa.Text),
        # By job first: the history of one job is one index range; the month must be part of any unique key.
        sa.PrimaryKeyConstraint("job_id", "version_to", "created_at", name="pk_transitions"),
        schema="runtime",
        postgresql_partition_by="RANGE (created_at)",
    )
    op.create_index(
        "ix_transitions_created_at", "transitions", ["created_at"], schema="runtime", postgresql_using="brin"
    )
    # A month that nobody prepared must not stop the system: its rows land here and are moved when it is made.
    op.execute("CREATE TABLE runtime.transitions_default PARTITION OF runtime.transitions DEFAULT")


def _lifecycles() -> None:
    op.create_table(
        "lifecycles",
        sa.Column("table_name", sa.String(130), nullable=False),
        sa.Column("initial", sa.String(20), nullable=False),
        sa.Column("terminal", pg.ARRAY(sa.Text), nullable=False),
        sa.Column("transitions", pg.ARRAY(sa.Text), nullable=False),
        sa.Column("jobs_branch", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("table_name", name="pk_lifecycles"),
        schema="runtime",
    )
    op.create_table(
        "stages",
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("table_name", sa.String(130), nullable=False),
        sa.Column("ready", sa.String(20), nullable=False),
        sa.Column("running", sa.String(20), nullable=False),
        sa.Column("done", sa.String(20), nullable=False),
        sa.Column("limit_at_most", sa.Integer),
        sa.Column("paused_at", TIME),
        sa.Column("paused_by", sa.String(255)),
        sa.PrimaryKeyConstraint("name", name="pk_stages"),
        sa.ForeignKeyConstraint(
            ["table_name"],
            ["runtime.lifecycles.table_name"],
            name="fk_stages_table_name_lifecycles",
            ondelete="CASCADE",
        ),
        schema="runtime",
    )


def _processes() -> None:
    op.create_table(
        "workers",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("queues", pg.ARRAY(sa.Text), nullable=False),
        sa.Column("slots", sa.Integer, nullable=False),
        sa.Column("running", sa.Integer, nullable=False, server_default="0"),
        sa.Column("lease_seconds", sa.Float, nullable=False),
        sa.Column("started_at", TIME, nullable=False, server_default=NOW),
        sa.Column("heartbeat_at", TIME, nullable=False, server_default=NOW),
        sa.Column("draining_at", TIME),
        sa.PrimaryKeyConstraint("id", name="pk_workers"),
        schema="runtime",
    )
    # Unlogged: what it says is about processes that a crash of the server disconnects anyway.
    op.create_table(
        "dispatcher",
        sa.Column("id", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("leader", sa.String(255)),
        sa.Column("leading_since", TIME),
        sa.Column("seen_at", TIME),
        sa.Column("listening", sa.Boolean, nullable=False, server_default=sa.true()),
        sa.PrimaryKeyConstraint("id", name="pk_dispatcher"),
        sa.CheckConstraint("id = 1", name="one_row"),
        schema="runtime",
        prefixes=["UNLOGGED"],
    )


def _schedules() -> None:
    op.create_table(
        "schedules",
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("stage", sa.String(100)),
        sa.Column("payload", pg.JSONB, nullable=False, server_default="{}"),
        sa.Column("action", sa.String(100)),
        sa.Column("cron", sa.String(100), nullable=False),
        sa.Column("timezone", sa.String(64), nullable=False, server_default="UTC"),
        sa.Column("catch_up", sa.String(10), nullable=False, server_default="one"),
        sa.Column("enabled", sa.Boolean, nullable=False, server_default=sa.true()),
        sa.Column("last_scheduled_for", TIME),
        sa.Column("created_at", TIME, nullable=False, server_default=NOW),
        sa.Column("updated_at", TIME, nullable=False, server_default=NOW),
        sa.PrimaryKeyConstraint("name", name="pk_schedules"),
        sa.CheckConstraint("num_nonnulls(stage, action) = 1", name="stage_or_action"),
        sa.CheckConstraint("catch_up IN ('skip', 'one', 'all')", name="catch_up"),
        schema="runtime",
    )
    op.create_table(
        "ticks",
        sa.Column("schedule", sa.String(100), nullable=False),
        sa.Column("scheduled_for", TIME, nullable=False),
        sa.Column("fired_at", TIME, nullable=False, server_default=NOW),
        sa.Column("fired_by", sa.String(255), nullable=False),
        sa.Column("job_id", sa.Uuid),
        sa.PrimaryKeyConstraint("schedule", "scheduled_for", name="pk_ticks"),
        sa.ForeignKeyConstraint(
            ["schedule"],
            ["runtime.schedules.name"],
            name="fk_ticks_schedule_schedules",
            ondelete="CASCADE",
            onupdate="CASCADE",
        ),
        schema="runtime",
    )


# A service connects as a member of gristmill_service and sees its user's rows; workers see all. A migrating role that
# may not create roles leaves that to the administrator: the owner of the tables is exempt anyway.
ROLES = """
DO $$ BEGIN
  IF to_regrole('gristmill_service') IS NULL THEN CREATE ROLE gristmill_service NOLOGIN; END IF;
  IF to_regrole('gristmill_worker') IS NULL THEN CREATE ROLE gristmill_worker NOLOGIN BYPASSRLS; END IF;
EXCEPTION
  WHEN insufficient_privilege THEN RAISE NOTICE 'roles gristmill_service and gristmill_worker were not created';
  WHEN duplicate_object OR unique_violation THEN NULL;
END $$;
DO $$ BEGIN
  IF to_regrole('gristmill_service') IS NOT NULL THEN
    GRANT USAGE ON SCHEMA runtime TO gristmill_service;
    GRANT SELECT ON runtime.stages, runtime.workers TO gristmill_service;
  END IF;
  IF to_regrole('gristmill_worker') IS NOT NULL THEN
    GRANT USAGE ON SCHEMA runtime TO gristmill_worker;
    GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA runtime TO gristmill_worker;
    GRANT SELECT ON public.alembic_version TO gristmill_worker;
  END IF;
END $$
"""

ENSURE_PARTITIONS = """
CREATE FUNCTION runtime.ensure_transition_partitions(p_months_ahead integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- Make the partitions of this month and the next ones; move rows that already fell into the default partition.
DECLARE
  v_from timestamptz;
  v_to timestamptz;
  v_name text;
  v_made integer := 0;
BEGIN
  PERFORM pg_advisory_xact_lock('runtime.transitions'::regclass::bigint);  -- two at once would make a month twice
  FOR i IN 0..p_months_ahead LOOP
    v_from := (date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => i)) AT TIME ZONE 'UTC';
    v_to := (date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => i + 1)) AT TIME ZONE 'UTC';
    v_name := 'transitions_' || to_char(v_from AT TIME ZONE 'UTC', 'YYYY_MM');
    CONTINUE WHEN to_regclass('runtime.' || v_name) IS NOT NULL;
    EXECUTE format(
      'CREATE TABLE runtime.%I (LIKE runtime.transitions INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', v_name);
    EXECUTE format(
      'WITH moved AS (DELETE FROM runtime.transitions_default WHERE created_at >= %L AND created_at < %L RETURNING *)
       INSERT INTO runtime.%I SELECT * FROM moved', v_from, v_to, v_name);
    EXECUTE format('ALTER TABLE runtime.transitions ATTACH PARTITION runtime.%I FOR VALUES FROM (%L) TO (%L)', v_name,
      v_from, v_to);
    v_made := v_made + 1;
  END LOOP;
  RETURN v_made;
END $$
"""

DROP_PARTITIONS = """
CREATE FUNCTION runtime.drop_transition_partitions(p_older_than interval) RETURNS text[]
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
-- Drop the months that ended before the cutoff and return their names; dropping a month costs no vacuum.
DECLARE
  v_name text;
  v_dropped text[] := '{}';
BEGIN
  PERFORM pg_advisory_xact_lock('runtime.transitions'::regclass::bigint);
  FOR v_name IN
    SELECT c.relname FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
     WHERE i.inhparent = 'runtime.transitions'::regclass AND c.relname ~ '^transitions_\\d{4}_\\d{2}$'
       AND (to_date(right(c.relname, 7), 'YYYY_MM') + interval '1 month') AT TIME ZONE 'UTC' < now() - p_older_than
  LOOP
    EXECUTE format('DROP TABLE runtime.%I', v_name);
    v_dropped := v_dropped || v_name;
  END LOOP;
  RETURN v_dropped;
END $$
"""

# Making and dropping partitions takes the owner's rights; the workers who do it by schedule get just these two.
PARTITION_RIGHTS = """
REVOKE EXECUTE ON FUNCTION runtime.ensure_transition_partitions(integer),
  runtime.drop_transition_partitions(interval) FROM PUBLIC;
DO $$ BEGIN
  IF to_regrole('gristmill_worker') IS NOT NULL THEN
    GRANT EXECUTE ON FUNCTION runtime.ensure_transition_partitions(integer),
      runtime.drop_transition_partitions(interval) TO gristmill_worker;
  END IF;
END $$
"""

REFUSE = """
CREATE FUNCTION runtime.refuse_transition(p_table text, p_job uuid, p_rule text) RETURNS integer
LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'job % of %: %', p_job, p_table, p_rule USING ERRCODE = 'check_violation';
END $$
"""

HAS_WORKER = """
CREATE FUNCTION runtime.has_worker(p_stage text) RETURNS boolean LANGUAGE sql STABLE AS $$
  SELECT EXISTS (SELECT FROM runtime.workers
                  WHERE split_part(p_stage, '.', 1) = ANY (queues) AND draining_at IS NULL
                    AND heartbeat_at > now() - make_interval(secs => lease_seconds))
$$
"""

REBUILD_JOBS_VIEW = """
CREATE FUNCTION runtime.rebuild_jobs_view() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  v_branches text;
BEGIN
  SELECT string_agg(jobs_branch, ' UNION ALL ' ORDER BY table_name) INTO v_branches FROM runtime.lifecycles;
  DROP VIEW IF EXISTS runtime.jobs;
  IF v_branches IS NOT NULL THEN
    EXECUTE 'CREATE VIEW runtime.jobs WITH (security_invoker = true) AS ' || v_branches;
    IF to_regrole('gristmill_service') IS NOT NULL THEN GRANT SELECT ON runtime.jobs TO gristmill_service; END IF;
    IF to_regrole('gristmill_worker') IS NOT NULL THEN GRANT SELECT ON runtime.jobs TO gristmill_worker; END IF;
  END IF;
END $$
"""
