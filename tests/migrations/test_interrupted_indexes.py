"""A revision that builds indexes on tables in use may fail halfway. It can be run again."""

import threading
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import dict_row

import migrations
from gristmill_testing.waiting import wait_until
from tests.conftest import migrate

VERSIONS = Path(migrations.__file__).parent / "versions"
BUILDING = {
    path.name[:4]
    for path in VERSIONS.glob("0*.py")
    if "with outside_transactions()" in path.read_text(encoding="utf-8")
}


def start_migration(url: str, revision: str) -> tuple[threading.Thread, list[Exception]]:
    """Migrate in a thread; return the thread, and a list that gets its error."""
    raised: list[Exception] = []

    def run() -> None:
        try:
            migrate(url, to=revision)
        except Exception as error:  # noqa: BLE001 - the test checks it
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, raised


def building(admin: "psycopg.Connection[dict[str, object]]") -> "dict[str, object] | None":
    """Return the session that waits with its CREATE INDEX CONCURRENTLY, if there is one."""
    return admin.execute(
        """SELECT pid, extract(epoch FROM clock_timestamp() - query_start) AS seconds FROM pg_stat_activity
            WHERE query LIKE 'CREATE INDEX CONCURRENTLY%' AND wait_event_type = 'Lock'"""
    ).fetchone()


@pytest.mark.parametrize("revision", sorted(BUILDING))
def test_a_revision_that_failed_at_an_index_is_run_again(empty_database_url, revision):
    """A long transaction blocked it until somebody cancelled it. The next try succeeds."""
    [text] = [path.read_text(encoding="utf-8") for path in VERSIONS.glob(f"{revision}_*.py")]
    before = text.partition('down_revision = "')[2][:4]
    migrate(empty_database_url, to=before)
    with (
        psycopg.connect(empty_database_url, autocommit=True, row_factory=dict_row) as admin,
        psycopg.connect(empty_database_url) as long,
    ):
        long.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ  # its snapshot is what an index waits for
        long.execute("SELECT pg_current_xact_id()")
        thread, raised = start_migration(empty_database_url, revision)
        wait_until(lambda: building(admin) is not None)
        waiting = building(admin)
        assert waiting is not None
        admin.execute("SELECT pg_cancel_backend(%s)", [waiting["pid"]])
        thread.join(30)

        assert "canceling statement due to user request" in str(raised[0])
        assert admin.execute("SELECT version_num AS at FROM alembic_version").fetchone() == {"at": before}
        long.rollback()
        migrate(empty_database_url, to=revision)
        broken = admin.execute("SELECT indexrelid::regclass FROM pg_index WHERE NOT indisvalid").fetchall()
        assert broken == []


def test_an_index_waits_for_a_transaction_longer_than_the_lock_timeout(empty_database_url):
    """It may wait, because no other session waits for it."""
    migrate(empty_database_url, to="0011")
    with (
        psycopg.connect(empty_database_url, autocommit=True, row_factory=dict_row) as admin,
        psycopg.connect(empty_database_url) as long,
    ):
        long.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ  # its snapshot is what an index waits for
        long.execute("SELECT pg_current_xact_id()")
        thread, raised = start_migration(empty_database_url, "0012")
        wait_until(lambda: (waiting := building(admin)) is not None and float(str(waiting["seconds"])) > 5.5, within=30)
        long.rollback()
        thread.join(60)

    assert raised == []


def test_every_concurrent_index_is_built_by_the_one_helper():
    """The helper lets an interrupted revision run again."""
    texts = {path.name[:4]: path.read_text(encoding="utf-8") for path in VERSIONS.glob("0*.py")}

    assert {"0012", "0013"} <= BUILDING
    by_hand = [name for name, text in texts.items() if "autocommit_block" in text or "INDEX CONCURRENTLY" in text]
    assert by_hand == []
