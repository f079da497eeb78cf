"""Check schedules by SQL, keep refused Celery messages, and find the transitions that no worker made.

Why: a schedule written in psql could not be understood and looked enabled, and an edited one fired for the past; a
message that the Celery door refused was gone; Flower did not hear of what others than workers did to a job.
Previous release: survives it. It neither writes nor reads the new columns and the new table.

The index on ``runtime.transitions`` holds few rows, but every transition is read once to make it: about a second per
five million, in which no job moves. Not CONCURRENTLY: it would wait for the session of a second migration, which waits
for this one.

A cron of six fields was read as ``second minute hour day month weekday``: it keeps the last five, and so its times to
the minute. A schedule whose cron has another number of fields never fired: it is paused. Names lose what the rule
forbids.

Revision ID: 0009
Revises: 0008
Created: 2026-11-30
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy import text

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

NOW = sa.func.now()
TIME = sa.DateTime(timezone=True)

INDEX = "ix_transitions_moved_by_others"
MOVED_BY_OTHERS = "old_state IS NOT NULL AND coalesce(changed_by, '') NOT LIKE 'worker:%'"

# What a person cannot see: controls, marks of direction, spaces without width.
INVISIBLE = r"[\u0001-\u001f\u007f-\u009f\u00ad\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]"
SPACE = r"[ \u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]"
FIVE_FIELDS = "^[0-9A-Za-z*,/#-]+( [0-9A-Za-z*,/#-]+){4}$"
TIMES = ("last_scheduled_for", "changed_at", "refused_at", "created_at", "updated_at")
CHECKS = {
    "name": f"length(name) BETWEEN 1 AND 100 AND name IS NFC NORMALIZED AND name !~ '{INVISIBLE}' "
    f"AND name !~ '^{SPACE}|{SPACE}$'",
    "cron_has_five_fields": f"NOT enabled OR cron ~ '{FIVE_FIELDS}'",
    "payload_is_an_object": "jsonb_typeof(payload) = 'object'",
    "payload_size": "octet_length(payload::text) <= 262144",
    "times": " AND ".join(f"{name} BETWEEN '1900-01-01Z' AND '9999-12-30Z'" for name in TIMES),
}


def upgrade() -> None:
    _run(f"CREATE INDEX {INDEX} ON runtime.transitions (created_at) WHERE {MOVED_BY_OTHERS}")
    op.add_column("schedules", sa.Column("changed_at", TIME), schema="runtime")
    op.add_column("schedules", sa.Column("refusal", sa.Text), schema="runtime")
    op.add_column("schedules", sa.Column("refused_at", TIME), schema="runtime")
    op.add_column("ticks", sa.Column("refusal", sa.Text), schema="runtime")
    for statement in (MEND_CRONS, MEND_NAMES, MEND_REST):
        _run(statement)
    for name, rule in CHECKS.items():
        _run(f"ALTER TABLE runtime.schedules ADD CONSTRAINT ck_schedules_{name} CHECK ({rule})")
    _run(NOTE_CHANGE)
    _dead_messages()


def downgrade() -> None:
    op.execute("""
        DO $$ BEGIN
          IF to_regrole('gristmill_dispatcher') IS NOT NULL THEN
            REVOKE SELECT ON runtime.transitions FROM gristmill_dispatcher;
            DROP POLICY transitions_dispatcher ON runtime.transitions;
          END IF;
        END $$
    """)
    op.drop_table("dead_messages", schema="runtime")
    op.execute("DROP TRIGGER note_change ON runtime.schedules")
    op.execute("DROP FUNCTION runtime.note_schedule_change()")
    for name in CHECKS:
        op.execute(f"ALTER TABLE runtime.schedules DROP CONSTRAINT ck_schedules_{name}")
    op.drop_column("ticks", "refusal", schema="runtime")
    for name in ("refused_at", "refusal", "changed_at"):
        op.drop_column("schedules", name, schema="runtime")
    op.execute(f"DROP INDEX runtime.{INDEX}")


def _run(statement: str) -> None:
    """Run a statement with nothing to fill in: neither its colons nor its percents are parameters."""
    op.get_bind().exec_driver_sql(statement.replace("%", "%%"))


MEND_CRONS = rf"""
UPDATE runtime.schedules SET cron = regexp_replace(btrim(cron, E' \t\r\n\f\v'), '\s+', ' ', 'g');
UPDATE runtime.schedules SET cron = regexp_replace(cron, '^\S+ ', '') WHERE cron ~ '^\S+( \S+){{5}}$';
UPDATE runtime.schedules SET enabled = false WHERE cron !~ '{FIVE_FIELDS}'
"""

# Another schedule may have the mended name already: a number makes it another.
MEND_NAMES = rf"""
DO $$
DECLARE
  v_old text;
  v_plain text;
  v_new text;
BEGIN
  FOR v_old IN SELECT name FROM runtime.schedules WHERE NOT ({CHECKS["name"]}) LOOP
    v_plain := regexp_replace(normalize(regexp_replace(v_old, '{INVISIBLE}', '', 'g')), '^{SPACE}+|{SPACE}+$', '', 'g');
    v_plain := coalesce(nullif(left(v_plain, 90), ''), 'unnamed');
    v_new := v_plain;
    FOR v_nth IN 2..1000 LOOP
      EXIT WHEN NOT EXISTS (SELECT FROM runtime.schedules WHERE name = v_new);
      v_new := v_plain || '-' || v_nth;
    END LOOP;
    UPDATE runtime.schedules SET name = v_new WHERE name = v_old;
    RAISE NOTICE 'a schedule is called % now, without what no name may have', v_new;
  END LOOP;
END $$
"""

MEND_REST = """
UPDATE runtime.schedules SET enabled = false, payload = '{}'
 WHERE jsonb_typeof(payload) <> 'object' OR octet_length(payload::text) > 262144;
UPDATE runtime.schedules SET last_scheduled_for = NULL
 WHERE NOT last_scheduled_for BETWEEN '1900-01-01Z' AND '9999-12-30Z';
UPDATE runtime.schedules SET created_at = now() WHERE NOT created_at BETWEEN '1900-01-01Z' AND '9999-12-30Z';
UPDATE runtime.schedules SET updated_at = now() WHERE NOT updated_at BETWEEN '1900-01-01Z' AND '9999-12-30Z'
"""

NOTE_CHANGE = """
CREATE FUNCTION runtime.note_schedule_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
-- Times that passed before a change are not fired after it, and what was refused before it is forgotten.
BEGIN
  IF (NEW.cron, NEW.timezone, NEW.catch_up) IS DISTINCT FROM (OLD.cron, OLD.timezone, OLD.catch_up)
     OR (NEW.enabled AND NOT OLD.enabled) THEN
    NEW.changed_at := clock_timestamp();
  END IF;
  IF (NEW.cron, NEW.timezone, NEW.catch_up, NEW.enabled, NEW.stage, NEW.action, NEW.payload)
     IS DISTINCT FROM (OLD.cron, OLD.timezone, OLD.catch_up, OLD.enabled, OLD.stage, OLD.action, OLD.payload) THEN
    NEW.updated_at := clock_timestamp();
    NEW.refusal := NULL;
    NEW.refused_at := NULL;
  END IF;
  RETURN NEW;
END $$;
REVOKE EXECUTE ON FUNCTION runtime.note_schedule_change() FROM PUBLIC;
CREATE TRIGGER note_change BEFORE UPDATE ON runtime.schedules
FOR EACH ROW EXECUTE FUNCTION runtime.note_schedule_change()
"""


def _dead_messages() -> None:
    op.create_table(
        "dead_messages",
        sa.Column("id", sa.Uuid, nullable=False, server_default=text("uuidv7()")),
        sa.Column("fingerprint", sa.LargeBinary, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("task", sa.String(255)),
        sa.Column("message_id", sa.String(255)),
        sa.Column("queue", sa.String(255)),
        sa.Column("content_type", sa.String(100)),
        sa.Column("content_encoding", sa.String(50)),
        sa.Column("arguments", sa.Text),
        sa.Column("keywords", sa.Text),
        sa.Column("body", sa.LargeBinary),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("count", sa.BigInteger, nullable=False, server_default="1"),
        sa.Column("received_at", TIME, nullable=False, server_default=NOW),
        sa.Column("last_received_at", TIME, nullable=False, server_default=NOW),
        sa.Column("replayed_at", TIME),
        sa.Column("job_id", sa.Uuid),
        sa.PrimaryKeyConstraint("id", name="pk_dead_messages"),
        sa.UniqueConstraint("fingerprint", name="uq_dead_messages_fingerprint"),
        sa.CheckConstraint("octet_length(fingerprint) = 32", name="fingerprint"),
        sa.CheckConstraint("length(reason) BETWEEN 1 AND 2000", name="reason"),
        sa.CheckConstraint("length(arguments) <= 8192 AND length(keywords) <= 8192", name="shown"),
        sa.CheckConstraint("octet_length(body) <= 65536 AND octet_length(body) <= size", name="body"),
        sa.CheckConstraint("count >= 1", name="count"),
        schema="runtime",
    )
    # A message holds what anybody's service sent: no service reads another's, and none writes here.
    op.execute("ALTER TABLE runtime.dead_messages ENABLE ROW LEVEL SECURITY")
    op.execute("""
        DO $$ BEGIN
          IF to_regrole('gristmill_worker') IS NOT NULL THEN
            GRANT SELECT, INSERT, UPDATE, DELETE ON runtime.dead_messages TO gristmill_worker;
            CREATE POLICY dead_messages_workers ON runtime.dead_messages FOR ALL TO gristmill_worker USING (true);
          END IF;
          -- The follower beside each dispatcher tells Flower what others than workers did to jobs.
          IF to_regrole('gristmill_dispatcher') IS NOT NULL THEN
            GRANT SELECT ON runtime.transitions TO gristmill_dispatcher;
            CREATE POLICY transitions_dispatcher ON runtime.transitions FOR SELECT TO gristmill_dispatcher USING (true);
          END IF;
        END $$
    """)
