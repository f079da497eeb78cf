"""The embedded PostgreSQL: loopback TCP only, SCRAM password, UTF-8 with the builtin locale, one database."""

import os
import shutil
import signal
import subprocess
from contextlib import closing

import psycopg
from psycopg import sql

from local.embedded.errors import EmbeddedError
from local.embedded.home import check_owner
from local.embedded.server import HOST, Server, last_error_line
from workers.runtime.connections import connect

USER = DATABASE = "gristmill"

_SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    # Statements and rejected rows contain payloads, which no log may show.
    "log_error_verbosity": "terse",
    "log_min_error_statement": "panic",
}
# For tests only. With these settings a killed server loses nothing, but a machine that loses power does.
_NOT_DURABLE = {"fsync": "off", "full_page_writes": "off"}


class Postgres(Server):
    """PostgreSQL with its cluster in ``home/postgres``."""

    name = "postgres"
    stop_signals = (signal.SIGINT, signal.SIGQUIT)  # fast, then immediate shutdown

    @property
    def url(self) -> str:
        return self._url(DATABASE)

    def prepare(self, lock: int) -> None:
        cluster = self.site.home / self.name
        if not cluster.exists():
            self._initialize(lock)
        check_owner(cluster, self.site.account)
        # A killed server leaves this file. We hold the lock, so its pid can only be of another program now, and
        # PostgreSQL would refuse to start.
        (cluster / "postmaster.pid").unlink(missing_ok=True)

    def launch(self, lock: int) -> subprocess.Popen[bytes]:
        settings = _SETTINGS | ({} if self.site.durable else _NOT_DURABLE) | {"port": str(self.port)}
        argv: list[str | os.PathLike[str]] = [self.program, "-D", self.site.home / self.name]
        for name, value in settings.items():
            argv += ["-c", f"{name}={value}"]
        return self.run(argv, lock)

    def answers(self) -> bool:
        try:
            with closing(connect(self._url("postgres"), autocommit=True)) as connection:
                known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone()
                if not known:
                    connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
        except psycopg.OperationalError:
            return False
        return True

    def _url(self, database: str) -> str:
        return f"postgresql://{USER}:{self.site.password}@{HOST}:{self.port}/{database}"

    def _initialize(self, lock: int) -> None:
        """Create the cluster under another name and rename it, so that a killed initdb leaves no incomplete cluster."""
        draft = self.site.home / "postgres.draft"
        if draft.exists():
            shutil.rmtree(draft)
        draft.mkdir(mode=0o700)
        self.site.account.take_ownership(draft)
        password = self.site.home / "postgres.password"
        password.unlink(missing_ok=True)
        password.touch(mode=0o600)
        password.write_text(self.site.password, encoding="ascii")
        self.site.account.take_ownership(password)
        log = self.site.logs / f"{self.name}.log"
        try:
            argv: list[str | os.PathLike[str]] = [
                self.program.with_name("initdb"),
                "-D",
                draft,
                "-U",
                USER,
                "--pwfile",
                password,
            ]
            argv += ["-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--locale-provider=builtin"]
            argv += ["--builtin-locale=C.UTF-8", "--no-instructions", *(() if self.site.durable else ("--no-sync",))]
            with self.run(argv, lock) as initdb:
                if initdb.wait() != 0:
                    raise EmbeddedError(f"initdb failed: {last_error_line(log)} (log: {log})")
        finally:
            password.unlink()
        draft.rename(self.site.home / self.name)
