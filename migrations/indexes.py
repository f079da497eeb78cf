"""Indexes on tables in use: built without holding up writers, and again where an earlier try failed. For revisions."""

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from alembic import op

PARTITIONS = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = CAST(:table AS regclass) ORDER BY 1"
IS_VALID = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:index)"
IS_ATTACHED = "SELECT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = to_regclass(:index))"


@contextmanager
def outside_transactions() -> Iterator[None]:
    """Commit what the revision did so far, and run what follows statement by statement.

    A revision that fails here is run again from its beginning: whatever stands before this must bear that.
    """
    with op.get_context().autocommit_block():
        yield


def build(index: str, on: str) -> None:
    """Build ``index`` (with its schema) unless it is there and whole. Only outside of transactions.

    It waits for the transactions that run now, however long they take, and nobody waits for it.
    """
    if op.get_bind().scalar(sa.text(IS_VALID), {"index": index}):
        return
    limit = op.get_bind().scalar(sa.text("SHOW lock_timeout"))
    op.execute("SET lock_timeout = 0")
    try:
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {index}")
        op.execute(f"CREATE INDEX CONCURRENTLY {index.partition('.')[2]} ON {on}")
    finally:
        op.execute(f"SET lock_timeout = '{limit}'")


def build_on_partitions(table: str, index: str, what: str) -> None:
    """Build ``index`` (without schema) of a partitioned table, one partition after the other."""
    schema, _, plain = table.partition(".")
    op.execute(f"CREATE INDEX IF NOT EXISTS {index} ON ONLY {table} {what}")
    suffix = index.removeprefix(f"ix_{plain}")
    for (partition,) in op.get_bind().execute(sa.text(PARTITIONS), {"table": table}).all():
        own = f"{schema}.ix_{partition.removeprefix(f'{schema}.')}{suffix}"
        build(own, f"{partition} {what}")
        if not op.get_bind().scalar(sa.text(IS_ATTACHED), {"index": own}):
            op.execute(f"ALTER INDEX {schema}.{index} ATTACH PARTITION {own}")
