"""The indexes along which people and clients list jobs (``workers.runtime.store.lists``), of every job table.

Each leaves out the versions of a job between its dispatch and its end: those are few at any time, and found by the
index of jobs in flight. So a job costs each index two entries instead of four.
"""

import re
from collections.abc import Mapping

import sqlalchemy as sa
from alembic import op

from migrations.indexes import build, build_on_partitions, outside_transactions

_TABLES = """
    SELECT l.table_name, l.jobs_branch, c.relkind = 'p' AS is_partitioned,
           EXISTS (SELECT FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
                    WHERE a.attrelid = c.oid AND t.typtype = 'e' AND a.attname = btrim(
                          substring(l.jobs_branch FROM 'AS stage, j\\.(\\S+)::text AS status'), '"')) AS status_is_enum
      FROM runtime.lifecycles AS l JOIN pg_class AS c ON c.oid = to_regclass(l.table_name) ORDER BY 1"""
FREE = "(dispatched_at IS NULL OR completed_at IS NOT NULL)"
NAMES = ("listed", "listed_later", "owned", "errors", "owned_errors")


def build_list_indexes() -> None:
    """Build what job tables lack, whichever revision of whichever package made them. Holds up nobody.

    It commits what the revision did so far, and can be run again.
    """
    with outside_transactions():
        for row in op.get_bind().execute(sa.text(_TABLES)).mappings().all():
            schema, _, table = row["table_name"].partition(".")
            for name, what in _indexes(row["jobs_branch"], status_is_enum=row["status_is_enum"]).items():
                if row["is_partitioned"]:
                    build_on_partitions(row["table_name"], f"ix_{table}_{name}", what)
                else:
                    build(f"{schema}.ix_{table}_{name}", f"{row['table_name']} {what}")


def create_list_indexes(table_name: str) -> None:
    """Create those of a new table, in the transaction that makes it."""
    for row in op.get_bind().execute(sa.text(_TABLES)).mappings().all():
        if row["table_name"] == table_name:
            table = table_name.partition(".")[2]
            for name, what in _indexes(row["jobs_branch"], status_is_enum=row["status_is_enum"]).items():
                op.execute(f"CREATE INDEX IF NOT EXISTS ix_{table}_{name} ON {table_name} {what}")


def build_search_index(index: str, table: str, column: str) -> None:
    """Build the index of a searchable column: ``index`` with its schema. Only outside of transactions."""
    build(index, f"{table} ({column}, id) WHERE {FREE}")


def drop_list_indexes() -> None:
    """Undo :func:`build_list_indexes`."""
    for (table_name,) in op.get_bind().execute(sa.text("SELECT table_name FROM runtime.lifecycles")).all():
        schema, _, table = table_name.partition(".")
        for name in NAMES:
            op.execute(f"DROP INDEX IF EXISTS {schema}.ix_{table}_{name}")


def _indexes(branch: str, *, status_is_enum: bool) -> Mapping[str, str]:
    """Return the columns and the condition of each index, by its name without the table."""
    status = _column(branch, r"AS stage, j\.(\S+)::text AS status")
    due = _column(branch, r"j\.(\S+) AS due_at")
    error = _column(branch, r"j\.lease_owner, j\.(\S+) AS error_message")
    owned = "owner_id, id" if status_is_enum else f"owner_id, {status}, id"
    return {
        "listed": f"({status}, id) WHERE {due} IS NULL AND {FREE}",
        "listed_later": f"({status}, id) WHERE {due} IS NOT NULL AND {FREE}",
        "owned": f"({owned}) WHERE owner_id IS NOT NULL AND {FREE}",
        # The condition names the error, not its fingerprint: a search by owner must not match this index.
        "errors": f"(error_fingerprint, id) WHERE {error} IS NOT NULL",
        "owned_errors": "(owner_id, error_fingerprint, id) WHERE error_fingerprint IS NOT NULL",
    }


def _column(branch: str, place: str) -> str:
    found = re.search(place, branch)
    assert found is not None, f"runtime.lifecycles.jobs_branch must have {place}"
    return found[1]
