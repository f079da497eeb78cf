"""Run a command beside a real database and a real gateway: ``python -m tests.client_database COMMAND``.

The tests of the client (``client/tests``) run in an environment without Gristmill, and need both. CLIENT_DATABASE_URL
is the database, CLIENT_GATEWAY the gateway with its keys, as JSON. No worker and no dispatcher runs: the tests decide
what becomes of a job.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx2
import psycopg
from psycopg.rows import dict_row
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

import tests.support.proving.stages  # noqa: F401 - registers the proving stages
from local.embedded import throwaway_servers
from local.embedded.ports import choose_port
from local.logins import make_logins
from local.processes import spawn
from local.system import COMMAND
from tests.conftest import migrate, sqlalchemy_url
from tests.support.callers import add_user, make_key
from tests.support.paths import ROOT
from tests.support.proving.schema import create as create_proving_tables
from workers.operations.keyring import new_key
from workers.runtime.database import Database

START_SECONDS = 60.0
SCOPES = ("jobs:read", "jobs:write", "scoring", "operations", "callbacks")


def main(command: list[str]) -> int:
    """Run the command; return its exit code."""
    with throwaway_servers() as servers:
        url = servers.urls.database_url
        migrate(url)
        engine = create_engine(sqlalchemy_url(url), poolclass=NullPool)
        with engine.begin() as connection:
            create_proving_tables(connection)
        keys = make_keys(url)
        with running_gateway(url, servers.urls.redis_url, servers.data_dir) as address:
            given = {"CLIENT_DATABASE_URL": url, "CLIENT_GATEWAY": json.dumps({"url": address, "keys": keys})}
            return subprocess.run(command, env={**os.environ, **given}, check=False).returncode


def make_keys(database_url: str) -> dict[str, str]:
    """Return the keys: of two tenants, of one that only reads, and of an operator."""
    with psycopg.connect(database_url, autocommit=True, row_factory=dict_row) as psql:
        first, second = (add_user(psql, f"{name}@example.test") for name in ("first", "second"))
    wanted: dict[str, tuple[UUID | None, tuple[str, ...]]] = {
        "first": (first, SCOPES),
        "second": (second, SCOPES),
        "reader": (first, ("jobs:read",)),
        "operator": (None, ("operate", "jobs:read", "jobs:write")),
    }

    async def make() -> dict[str, str]:
        database = Database(database_url, changed_by="tests")
        try:
            return {
                name: (await make_key(database, name, *scopes, acts_for=user)).secret
                for name, (user, scopes) in wanted.items()
            }
        finally:
            await database.close()

    return asyncio.run(make())


@contextmanager
def running_gateway(database_url: str, redis_url: str, folder: Path) -> Iterator[str]:
    """Yield the address of `gristmill gateway` with its own login."""
    logins = make_logins(database_url, folder / "roles", new_passwords=True)
    port = choose_port()
    environment: dict[str, Any] = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("GRISTMILL_", "OPENAI_"))},
        "DATABASE_URL": next(login.url for login in logins if login.kind == "gateway"),
        "REDIS_URL": redis_url,
        "GRISTMILL_SECRET_KEYS": new_key(),
        "GRISTMILL_DATA_DIR": str(folder / "gateway"),
    }
    log = folder / "gateway.log"
    with log.open("wb") as output:
        process = spawn(
            [*COMMAND, "gateway", "--port", str(port)],
            env=environment,
            output=output,
            end_signal=signal.SIGKILL,
            cwd=ROOT,
        )
    try:
        await_answer(f"http://127.0.0.1:{port}", process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def await_answer(address: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Return when the gateway answers."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            httpx2.get(f"{address}/healthz").raise_for_status()
        except httpx2.HTTPError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the gateway does not start: {log.read_text()}") from None
            time.sleep(0.05)
        else:
            return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
