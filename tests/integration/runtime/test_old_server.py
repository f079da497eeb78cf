"""If the server is older than this release needs, every kind of connection says so."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import text

from cli.doctor.servers import check_postgres
from cli.readiness import wait_for_database
from local.embedded.ports import choose_port
from migrations.upgrade import move
from workers.runtime.connections import TooOldServerError, check_version, connect, connect_async, refusal_of
from workers.runtime.database import Database, pinned_engine
from workers.runtime.refusals import Failed

OLD = Path("/usr/lib/postgresql/15/bin")
SAID = r"PostgreSQL 18 or newer is needed, this one is 15\.\d+"

needs_old = pytest.mark.skipif(
    not (OLD / "initdb").exists() or (os.geteuid() == 0 and not shutil.which("setpriv")),
    reason="a server of PostgreSQL 15 is not installed here",
)


@pytest.fixture(scope="module")
def old_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start PostgreSQL 15 from this machine and yield its URL."""
    data = tmp_path_factory.mktemp("old") / "data"
    port = choose_port()
    as_nobody: list[str] = []
    if os.geteuid() == 0:  # Postgres refuses to run as root
        as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        data.mkdir()
        os.chown(data, 65534, 65534)
        for parent in (*data.parents,)[:4]:
            parent.chmod(parent.stat().st_mode | 0o011)
    run = [*as_nobody, str(OLD / "initdb"), "-D", str(data), "-U", "old", "-A", "trust", "--no-sync"]
    subprocess.run(run, check=True, capture_output=True)
    options = f"-p {port} -k {data} -h 127.0.0.1 -F"
    control = [*as_nobody, str(OLD / "pg_ctl"), "-D", str(data), "-w"]
    subprocess.run([*control, "-o", options, "-l", str(data / "log"), "start"], check=True, capture_output=True)
    yield f"postgresql://old@127.0.0.1:{port}/postgres"
    subprocess.run([*control, "-m", "immediate", "stop"], check=True, capture_output=True)


def by_connect(url: str) -> None:
    connect(url).close()


def by_engine(url: str) -> None:
    with pinned_engine(url).connect() as connection:
        connection.execute(text("SELECT 1"))


@needs_old
@pytest.mark.parametrize("opens", [by_connect, by_engine, move])
def test_every_connection_says_that_the_server_is_too_old(old_server: str, opens: Callable[[str], Any]) -> None:
    """The error names the version; it does not say "cannot be reached" or name an unknown setting."""
    with pytest.raises(psycopg.OperationalError, match=SAID) as error:
        opens(old_server)

    assert isinstance(refusal_of(error.value), Failed)


@needs_old
async def test_so_do_those_of_a_loop(old_server: str) -> None:
    """Kernel connections, sessions and the check of the doctor say so; a role does not wait for such a server."""
    with pytest.raises(TooOldServerError, match=SAID):
        await connect_async(old_server)
    database = Database(old_server, changed_by="test")
    try:
        with pytest.raises(psycopg.OperationalError, match=SAID):
            async with database.kernel():
                pass
        with pytest.raises(psycopg.OperationalError, match=SAID):
            async with database.session() as session:
                await session.execute(text("SELECT 1"))
    finally:
        await database.close()
    with pytest.raises(psycopg.OperationalError, match=SAID):
        await wait_for_database(old_server)
    [check] = [check async for check in check_postgres(old_server, quick=True)]
    assert (check.state, check.remedy.partition(",")[0]) == ("failed", "upgrade the server")


def test_a_server_of_this_release_is_not_too_old(database_url: str) -> None:
    """Each new connection checks the version and accepts this one."""
    with closing(connect(database_url)) as connection:
        check_version(connection)
