"""A whole Gristmill with real processes and real servers, for tests that kill, stop and restart parts of it.

Roles write their logs to files. They end with the test run, however it ends.
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from subprocess import Popen, TimeoutExpired, run
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from psycopg.rows import class_row
from sqlalchemy import create_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from local.embedded import EmbeddedServers, throwaway_servers
from local.processes import describe_exit, kill_session, spawn
from local.system import COMMAND
from tests.conftest import migrate, sqlalchemy_url
from tests.support.paths import ROOT
from tests.support.proving.models import PlainJob
from tests.support.proving.schema import create as create_proving_tables
from workers.runtime.database import Database
from workers.runtime.enqueue import enqueue_many
from workers.runtime.store.intervene import cancel

TERMINAL = {"completed", "failed", "cancelled"}
# This is long because the machine may be slow and shared. Tests measure promised times by Postgres' clock.
PATIENCE_SECONDS = 30.0
START_SECONDS = 60.0
LOG_TAIL = 40
FOLLOWERS = """SELECT count(*) FROM pg_stat_activity
                WHERE pid <> pg_backend_pid() AND query LIKE 'WITH vacancy AS%'"""


class Transition(NamedTuple):
    """The columns of ``runtime.transitions`` that the invariants need."""

    job_id: UUID
    version_to: int
    old_state: str | None
    new_state: str
    change_action: str | None
    change_reason: str | None
    changed_by: str
    created_at: datetime


@dataclass(slots=True)
class Role:
    """One process of the system. Code that ends it on purpose sets ``ended``."""

    kind: str
    options: Mapping[str, Any]
    process: Popen[bytes]
    log: Path
    ended: bool = False
    shown: int = 0

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        """Kill it with SIGKILL, like a crash."""
        self.ended = True
        kill_session(self.process)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.ended = True
        self.process.terminate()

    def freeze(self) -> None:
        """Suspend it with SIGSTOP: the process exists but does nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Continue it with SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    def exit_code(self, *, within: float) -> int:
        """Return its exit code; fail if it still runs after ``within`` seconds."""
        try:
            return self.process.wait(within)
        except TimeoutExpired:
            raise AssertionError(f"{self.kind} {self.pid} still runs after {within:g} s") from None

    def lines(self) -> list[str]:
        """Return its log so far."""
        return self.log.read_text(encoding="utf-8", errors="replace").splitlines()

    def has_logged(self, *events: str, job: UUID | None = None) -> bool:
        """Return whether a log line has one of ``events``, and the job if one is given."""
        about = str(job) if job else ""
        return any(event in line and about in line for line in self.lines() for event in events)


@dataclass(slots=True)
class System:
    """Servers, roles, and the queries that all tests need.

    ``environment`` adds to the environment of roles, or replaces the servers' addresses in it.
    """

    servers: EmbeddedServers
    folder: Path
    roles: list[Role] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    _connection: psycopg.Connection[Any] | None = None

    @property
    def database_url(self) -> str:
        return self.servers.urls.database_url

    @property
    def redis_url(self) -> str:
        return self.servers.urls.redis_url

    # ── roles ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self, kind: str, *, environment: Mapping[str, str] | None = None, **options: Any) -> Role:
        """Start one role with the proving stages, and return at once."""
        return self._start(kind, ["-m", "tests.support.proving", kind, json.dumps(options)], options, environment)

    def start_gristmill(self, kind: str, **environment: str) -> Role:
        """Start one role with the ``gristmill`` command and these settings, and return at once."""
        return self._start(kind, ["-m", "cli.main", kind], environment, environment)

    def gristmill(self, *arguments: str, **environment: str) -> str:
        """Run one command as an operator does; return what it prints. It must succeed."""
        env = {**self._environment(), **environment}
        done = run([*COMMAND, *arguments], cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, f"gristmill {' '.join(arguments)}: {done.stderr or done.stdout}"
        return done.stdout

    def _start(
        self, kind: str, arguments: list[str], options: Mapping[str, Any], environment: Mapping[str, str] | None = None
    ) -> Role:
        log = self.folder / f"{len(self.roles)}-{kind}.log"
        with log.open("wb") as output:
            process = spawn(
                [sys.executable, *arguments],
                env={**self._environment(), **(environment or {})},
                output=output,
                end_signal=signal.SIGKILL,
                cwd=ROOT,
            )
        role = Role(kind, options, process, log)
        self.roles.append(role)
        return role

    def await_ready(self, workers: Iterable[Role]) -> None:
        """Return when each of these workers has its row."""
        for role in workers:
            self.wait(partial(self.worker_id, role), f"worker {role.pid} shows itself", seconds=START_SECONDS)

    @contextmanager
    def lasting(self, workers: Sequence[Role]) -> Iterator[Sequence[Role]]:
        """Yield these workers once they are ready, and stop them at the end of the block."""
        try:
            self.await_ready(workers)
            yield workers
        finally:
            self.stop(workers)

    def staff(self, *, workers: int, dispatchers: int = 1) -> list[Role]:
        """Start missing workers and dispatchers, without own options, up to these numbers; return the workers."""
        wanted = {"dispatcher": dispatchers, "worker": workers}
        for kind, count in wanted.items():
            for _ in range(count - len(self.living(kind))):
                self.start(kind)
        self.await_ready(self.living("worker"))
        pids = {role.pid for role in self.living("dispatcher")}
        self.wait(lambda: self.leader_pid() in pids, "a dispatcher leads", seconds=START_SECONDS)
        self.wait(lambda: self.ask(FOLLOWERS)[0][0] >= dispatchers - 1, "the others follow", seconds=START_SECONDS)
        return self.living("worker")

    def living(self, kind: str) -> list[Role]:
        """Return the running roles of one kind that have no own options."""
        return [role for role in self.roles if role.kind == kind and role.alive and not role.options]

    def stop(self, roles: Iterable[Role]) -> None:
        """Kill these roles; their logs stay readable."""
        for role in roles:
            role.kill()

    def check_alive(self) -> None:
        """Fail if a role ended unexpectedly."""
        unasked = [role for role in self.roles if not role.ended and not role.alive]
        assert not unasked, [f"{r.kind} {r.pid} {describe_exit(r.process.returncode)}, unasked" for r in unasked]

    def worker_id(self, role: Role) -> UUID | None:
        """Return the worker id of ``role`` once it has its row, else None."""
        found = self.ask("SELECT id FROM runtime.workers WHERE name LIKE %s", f"worker-{role.pid}@%")
        return found[0][0] if found else None

    def leader_pid(self) -> int | None:
        """Return the pid of the last leader in ``runtime.dispatcher``."""
        found = self.ask("SELECT split_part(split_part(leader, '@', 1), '-', 2)::int FROM runtime.dispatcher")
        return found[0][0] if found else None

    def environment_of_commands(self) -> dict[str, str]:
        """Return the environment in which ``gristmill`` finds this system."""
        return self._environment()

    def _environment(self) -> dict[str, str]:
        urls = {"DATABASE_URL": self.database_url, "REDIS_URL": self.redis_url}
        environment = {**os.environ, **urls, **self.environment}
        # Compiling imports is half of a role's start. If .pyc files may not be written beside sources, they go here.
        if environment.pop("PYTHONDONTWRITEBYTECODE", None):
            environment["PYTHONPYCACHEPREFIX"] = str(self.folder.parent / "bytecode")
        return environment

    # ── jobs ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def enqueue(self, stage: str, jobs: Sequence[Mapping[str, Any]]) -> list[UUID]:
        """Enqueue through the Python door in one committed transaction."""
        engine = create_engine(sqlalchemy_url(self.database_url), poolclass=NullPool)
        with Session(engine) as session, session.begin():
            return [job.id for job in enqueue_many(session, stage, jobs)]

    def cancel(self, ids: Sequence[UUID]) -> set[UUID]:
        """Cancel these jobs of ``proving.plain`` like every door does; return the cancelled ones."""

        async def do() -> set[UUID]:
            database = Database(self.database_url, changed_by="test")
            async with database.kernel() as connection:
                done = await cancel(connection, PlainJob, ids, reason="no longer wanted")
            await database.close()
            return done

        return asyncio.run(do())

    def ask(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return the rows of one statement. A restart of Postgres may break the connection."""
        return self._connected().execute(sql, values or None).fetchall()

    def run(self, sql: str, *values: Any) -> None:
        """Execute one statement that returns nothing."""
        self._connected().execute(sql, values)

    def histories(self, ids: Iterable[UUID]) -> dict[UUID, list[Transition]]:
        """Return every transition of these jobs, by job and in order."""
        cursor = self._connected().cursor(row_factory=class_row(Transition))
        cursor.execute(
            f"SELECT {', '.join(Transition._fields)} FROM runtime.transitions"
            " WHERE job_id = ANY (%s) ORDER BY version_to",
            [list(ids)],
        )
        found: dict[UUID, list[Transition]] = defaultdict(list)
        for transition in cursor:
            found[transition.job_id].append(transition)
        return found

    def history(self, job: UUID) -> list[Transition]:
        return self.histories([job])[job]

    def actions(self, job: UUID) -> list[str | None]:
        """Return the actions on one job, in order."""
        return [step.change_action for step in self.history(job)]

    def count(self, state: str, ids: Sequence[UUID]) -> int:
        """Return how many of these jobs are in ``state`` now."""
        rows = self.ask("SELECT count(*) FROM runtime.jobs WHERE id = ANY (%s) AND status = %s", list(ids), state)
        return int(rows[0][0])

    def claimed_by(self, role: Role, ids: Sequence[UUID]) -> list[UUID]:
        """Return the jobs that ``role`` claimed at least once."""
        rows = self.ask(
            "SELECT DISTINCT job_id FROM runtime.transitions"
            " WHERE job_id = ANY (%s) AND change_action = 'claim' AND changed_by = %s",
            list(ids),
            f"worker:{self.worker_id(role)}",
        )
        return [row[0] for row in rows]

    def held_by(self, role: Role, ids: Sequence[UUID]) -> list[UUID]:
        """Return the jobs that run under ``role``'s lease now."""
        rows = self.ask(
            "SELECT id FROM runtime.jobs WHERE id = ANY (%s) AND status = 'processing' AND lease_owner = %s",
            list(ids),
            self.worker_id(role),
        )
        return [row[0] for row in rows]

    def assert_each_works(self, roles: Sequence[Role]) -> None:
        """Fail unless each of these workers claims and settles jobs."""
        idle = list(roles)
        give_up = time.monotonic() + PATIENCE_SECONDS
        while idle and time.monotonic() < give_up:
            jobs = self.enqueue("proving.plain", [{"seconds": 0.1}] * 16)
            self.await_all(jobs)
            self.assert_settled_once(jobs)
            idle = [role for role in idle if not self.claimed_by(role, jobs)]
        assert not idle, f"took no job: {[role.pid for role in idle]}"

    def await_all(self, ids: Sequence[UUID], state: str = "completed", *, seconds: float = PATIENCE_SECONDS) -> None:
        """Return once all of these jobs are in ``state``."""
        self.wait(lambda: self.count(state, ids) == len(ids), f"{len(ids)} jobs {state}", seconds=seconds)

    def assert_settled_once(self, ids: Sequence[UUID], state: str = "completed") -> None:
        """Fail unless each of these jobs ended exactly once, in ``state``, and has versions from 1 without a gap."""
        histories = self.histories(ids)
        assert histories.keys() == set(ids), f"{len(set(ids) - histories.keys())} jobs have no history"
        for job, steps in histories.items():
            assert [step.version_to for step in steps] == list(range(1, len(steps) + 1)), (job, steps)
            ends = [step.new_state for step in steps if step.new_state in TERMINAL]
            assert (ends, steps[-1].new_state) == ([state], state), (job, steps)
        assert self.count(state, ids) == len(ids)

    # ── waiting ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def wait(self, condition: Callable[[], Any], what: str, *, seconds: float = PATIENCE_SECONDS) -> Any:
        """Poll until ``condition`` holds; return its value. Fail after ``seconds``, or if a role ended unexpectedly."""
        give_up = time.monotonic() + seconds
        while True:
            with suppress(psycopg.OperationalError):  # some tests stop Postgres
                if held := condition():
                    return held
            self.check_alive()
            if time.monotonic() > give_up:
                raise AssertionError(f"after {seconds:g} s, not yet: {what}")
            time.sleep(0.03)

    def close(self) -> None:
        """Stop everything that was started."""
        self.stop(self.roles)
        self._disconnect()

    def show_logs(self) -> None:
        """Print each role's log since the last call; pytest shows it if the test failed."""
        for role in self.roles:
            lines = role.lines()
            new, role.shown = lines[role.shown :], len(lines)
            if new:
                print(f"── {role.kind} {role.pid}, last {LOG_TAIL} of {len(new)} lines ──")  # noqa: T201
                print("\n".join(new[-LOG_TAIL:]))  # noqa: T201

    def _connected(self) -> psycopg.Connection[Any]:
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(self.database_url, autocommit=True, connect_timeout=5)
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()


@contextmanager
def running_system(folder: Path) -> Iterator[System]:
    """Yield a system with new servers, all tables and no role; stop everything afterwards."""
    with throwaway_servers() as servers:
        migrate(servers.urls.database_url)
        engine = create_engine(sqlalchemy_url(servers.urls.database_url), poolclass=NullPool)
        with engine.begin() as connection:
            create_proving_tables(connection)
        system = System(servers, folder)
        try:
            yield system
        finally:
            system.close()
