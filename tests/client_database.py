"""Run a command with a migrated throwaway database in CLIENT_DATABASE_URL: ``python -m tests.client_database COMMAND``.

The tests of the client (``client/tests``) run in an environment without Gristmill, and need its database.
"""

import os
import subprocess
import sys

from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

import tests.support.proving.stages  # noqa: F401 - registers the proving stages
from local.embedded import throwaway_servers
from tests.conftest import migrate, sqlalchemy_url
from tests.support.proving.schema import create as create_proving_tables


def main(command: list[str]) -> int:
    """Run the command; return its exit code."""
    with throwaway_servers(valkey=False) as servers:
        url = servers.urls.database_url
        migrate(url)
        engine = create_engine(sqlalchemy_url(url), poolclass=NullPool)
        with engine.begin() as connection:
            create_proving_tables(connection)
        return subprocess.run(command, env={**os.environ, "CLIENT_DATABASE_URL": url}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
