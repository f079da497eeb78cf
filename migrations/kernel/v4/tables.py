"""Bring job tables to the fourth generation, whichever revision of whichever package made them, and back.

Each function reads which tables there are, and may be run again.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from alembic import op

from migrations.kernel.v3.table import literal
from migrations.kernel.v4 import guards
from migrations.kernel.v4.columns import NEW_COLUMNS, OPTIONS, RULES
from migrations.kernel.v4.guards import Attached

_TABLES = """
    SELECT l.table_name, l.initial, l.terminal, l.jobs_branch, l.gives_notices, l.waits,
           (SELECT json_agg(json_build_array(s.name, s.ready, s.running, s.done) ORDER BY s.name)
              FROM runtime.stages AS s WHERE s.table_name = l.table_name) AS steps
      FROM runtime.lifecycles AS l ORDER BY l.table_name"""
_DEFINITION = "SELECT pg_get_functiondef(to_regproc(:name))"
_PARTITIONS = """
    SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = CAST(:name AS regclass) ORDER BY 1"""
# Those of this generation alone: older ones may be NOT VALID for rows that were there before them.
_INVALID = """
    SELECT o.conrelid::regclass::text, o.conname FROM pg_constraint AS o JOIN pg_class AS c ON c.oid = o.conrelid
     WHERE NOT o.convalidated AND o.contype = 'c' AND o.conname = ANY (
           SELECT 'ck_' || c.relname || '_' || name FROM unnest(CAST(:names AS text[])) AS name)
       AND c.oid IN (SELECT to_regclass(table_name) FROM runtime.lifecycles) ORDER BY 1, 2"""


def upgrade_tables() -> int:
    """Bring every job table of an older generation here; return how many. Waits for those who write to them.

    CHECKs hold for new rows at once; :func:`validate_tables` looks at the others.
    """
    upgraded = 0
    for t in _attached():
        if not guards.is_extended(_guard(t, "update")):
            _upgrade(t)
            upgraded += 1
    if upgraded:
        op.execute("SELECT runtime.rebuild_jobs_view()")
    return upgraded


def validate_tables() -> None:
    """Look whether the rows that were there keep the new CHECKs. Reads each table once and holds up nobody."""
    for table, constraint in op.get_bind().execute(sa.text(_INVALID), {"names": list(RULES)}).all():
        op.execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT {constraint}")


def make_fingerprints(batch: int = 10_000) -> None:
    """Write the fingerprints of the errors that jobs have, in batches. Only outside of transactions."""
    connection = op.get_bind()
    for t in _attached():
        stages = t.stage_of(f"j.{t.status}::text", _ended_stage(t))
        lacks = f"{t.error_message} IS NOT NULL AND error_fingerprint IS NULL"
        # A batch is chosen without a lock: rows that others change meanwhile must not make it look like the last one.
        choose = sa.text(f"SELECT id FROM {t.name} WHERE {lacks} AND id > :after ORDER BY id LIMIT :batch")
        write = sa.text(f"""
            UPDATE {t.name} AS j SET error_fingerprint = runtime.error_fingerprint({stages}, j.{t.error_message})
             WHERE j.id = ANY (CAST(:ids AS uuid[])) AND {lacks}""")
        after = UUID(int=0)
        while ids := connection.scalars(choose, {"after": after, "batch": batch}).all():
            connection.execute(write, {"ids": ids})
            after = ids[-1]


def hide_callbacks(table_name: str) -> None:
    """Take from services the right to read ``callback_url`` of a job table: it may contain a secret.

    For each table of which a tenant may read jobs of others. A column that is added later needs its own GRANT.
    """
    _run(f"""
        DO $$ BEGIN
          IF to_regrole('gristmill_service') IS NOT NULL THEN
            REVOKE SELECT ON {table_name} FROM gristmill_service;
            EXECUTE (SELECT format('GRANT SELECT (%s) ON {table_name} TO gristmill_service',
                                   string_agg(quote_ident(attname), ', ' ORDER BY attnum))
                       FROM pg_attribute WHERE attrelid = '{table_name}'::regclass AND attnum > 0
                        AND NOT attisdropped AND attname <> 'callback_url');
          END IF;
        END $$
    """)


def show_callbacks(table_name: str) -> None:
    """Undo :func:`hide_callbacks`."""
    _run(f"""
        DO $$ BEGIN
          IF to_regrole('gristmill_service') IS NOT NULL THEN
            REVOKE SELECT ON {table_name} FROM gristmill_service;
            GRANT SELECT ON {table_name} TO gristmill_service;
          END IF;
        END $$
    """)


def _ended_stage(t: Attached) -> str:
    """Return a SQL expression for the stage of an ended row ``j``."""
    last = literal(t.last)
    return t.stage_of("j.ended_in", last) if len(set(t.stages.values())) > 1 else last


def downgrade_tables() -> None:
    """Take every job table back to the third generation. The revision drops ``runtime.jobs`` before."""
    for t in _attached():
        for event in ("insert", "update"):
            _run(guards.without_additions(_guard(t, event)))
        for table in _with_partitions(t):
            for trigger in ("gristmill_count_deleted", "gristmill_count_truncated", "gristmill_note_error"):
                op.execute(f"DROP TRIGGER IF EXISTS {trigger} ON {table}")
        op.execute(f"ALTER TABLE {t.name} " + ", ".join(f"DROP COLUMN IF EXISTS {name}" for name in NEW_COLUMNS))


def _upgrade(t: Attached) -> None:
    schema, _, table = t.name.partition(".")
    adds = ", ".join(f"ADD COLUMN IF NOT EXISTS {name} text" for name in NEW_COLUMNS)
    rules = ", ".join(f"ADD CONSTRAINT ck_{table}_{name} CHECK ({rule}) NOT VALID" for name, rule in RULES.items())
    _run(f"ALTER TABLE {t.name} {adds}")
    _run(f"ALTER TABLE {t.name} {rules}")
    _run(guards.insert_guard(t, _guard(t, "insert")))
    _run(guards.update_guard(t, _guard(t, "update")))
    for trigger in _triggers(t):
        _run(trigger)
    _run(f"""
        DO $$ BEGIN
          IF to_regrole('gristmill_service') IS NOT NULL
             AND has_column_privilege('gristmill_service', '{schema}.{table}', 'priority', 'INSERT') THEN
            GRANT INSERT ({", ".join(OPTIONS)}) ON {t.name} TO gristmill_service;
          END IF;
        END $$
    """)


def _triggers(t: Attached) -> Iterator[str]:
    stages = json.dumps(dict(t.stages)).replace("'", "''")
    ended_in = "o.ended_in" if len(set(t.stages.values())) > 1 else "NULL"
    told = f"'{stages}', '{t.last}'"
    gone = f"runtime.count_gone('{t.name}', '{t.status}', {told}, '{ended_in}')"
    for table in _with_partitions(t):
        yield f"""
            CREATE TRIGGER gristmill_count_deleted AFTER DELETE ON {table} REFERENCING OLD TABLE AS old_rows
            FOR EACH STATEMENT EXECUTE FUNCTION {gone}"""
        yield f"""
            CREATE TRIGGER gristmill_count_truncated BEFORE TRUNCATE ON {table}
            FOR EACH STATEMENT EXECUTE FUNCTION {gone}"""
        yield f"""
            CREATE TRIGGER gristmill_note_error BEFORE UPDATE OF {t.error_message} ON {table}
            FOR EACH ROW WHEN (NEW.{t.error_message} IS DISTINCT FROM OLD.{t.error_message})
            EXECUTE FUNCTION runtime.note_error('{t.error_message}', '{t.status}', {told})"""


def _attached() -> list[Attached]:
    return [_describe(row) for row in op.get_bind().execute(sa.text(_TABLES)).mappings().all()]


def _describe(row: Any) -> Attached:
    """Return what a row of ``runtime.lifecycles`` and its stages say of a table."""
    stages: dict[str, str] = {}
    for name, ready, running, _ in row["steps"]:
        stages |= {ready: name, running: name}
    stages |= {state: wait["stage"] for state, wait in row["waits"].items()}
    # The last step leads to no other, itself or by waits.
    last = [name for name, *_, done in row["steps"] if stages.get(done, name) == name]
    return Attached(
        name=row["table_name"],
        status=_column(row["jobs_branch"], r"AS stage, j\.(\S+)::text AS status"),
        error_message=_column(row["jobs_branch"], r"j\.lease_owner, j\.(\S+) AS error_message"),
        initial=row["initial"],
        terminal=row["terminal"],
        stages=stages,
        last=last[-1] if last else row["steps"][-1][0],
        gives_notices=row["gives_notices"],
    )


def _column(branch: str, place: str) -> str:
    found = re.search(place, branch)
    assert found is not None, f"runtime.lifecycles.jobs_branch must have {place}"
    return found[1]


def _with_partitions(t: Attached) -> Sequence[str]:
    return [t.name, *op.get_bind().scalars(sa.text(_PARTITIONS), {"name": t.name}).all()]


def _guard(t: Attached, event: str) -> str:
    schema, _, table = t.name.partition(".")
    name = f"{schema}.guard_{table}_{event}"
    definition = op.get_bind().scalar(sa.text(_DEFINITION), {"name": name})
    if definition is None:
        raise RuntimeError(f"job table {t.name} must have the guard {name}")
    return str(definition)


def _run(statement: str) -> None:
    """Run a statement with nothing to fill in: neither its colons nor its percents are parameters."""
    op.get_bind().exec_driver_sql(statement.replace("%", "%%"))
