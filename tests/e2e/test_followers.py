"""Commands that follow a job continue after a restart of Postgres."""

import asyncio
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from cli import following, ingesting, watching
from cli.demo import following as demo
from cli.following import FollowedJob, job_events
from gristmill_testing.waiting import until
from local.embedded import EmbeddedServers, throwaway_servers
from local.system import COMMAND
from models.assessments import Assessment
from models.operations import IngestJob
from tests.conftest import migrate
from workers.ingestion.progress import IngestionProgress
from workers.runtime.database import Raw
from workers.runtime.store.intervene import cancel
from workers.runtime.store.read import JobFilter

pytestmark = [pytest.mark.e2e, pytest.mark.faults]

AWAY, BACK = "Postgres cannot be reached; waiting for it to come back", "Postgres is back"
LOOKERS = """SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
                 AND query ~ 'runtime.jobs|ingest_jobs|lifecycles|COMMIT'"""


@pytest.fixture(scope="module")
def servers() -> Iterator[EmbeddedServers]:
    """A migrated Postgres for this module, which the tests restart."""
    with throwaway_servers(valkey=False) as servers:
        migrate(servers.urls.database_url)
        yield servers


def ask(servers: EmbeddedServers, statement: str, values: Any = None) -> Any:
    with psycopg.connect(servers.urls.database_url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode(), values)
        row = cursor.fetchone() if cursor.description else None
    return row[0] if row else None


@pytest.fixture
def job(servers: EmbeddedServers) -> UUID:
    """An assessment that waits, because no worker runs."""
    create = 'SELECT assessments.create_assessment(gen_random_uuid()::text, \'{"serverName": "a"}\')'
    find = "SELECT id FROM assessments.assessment_states WHERE %(made)s IN (id::text, assessment_id)"
    return UUID(str(ask(servers, find, {"made": str(ask(servers, create))})))


@pytest.fixture
def ingest_job(servers: EmbeddedServers) -> UUID:
    """A waiting job of a file."""
    project = ask(servers, "INSERT INTO operations.projects (name) VALUES (gen_random_uuid()::text) RETURNING id")
    made = """INSERT INTO operations.ingest_jobs ("projectId", type) VALUES (%s, 'TASK') RETURNING id"""
    return UUID(str(ask(servers, made, [project])))


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """The error output so far."""
    heard: list[str] = []

    def so_far() -> str:
        heard.append(capsys.readouterr().err)
        return "".join(heard)

    return so_far


async def end(servers: EmbeddedServers, job: UUID) -> None:
    """Cancel a job of either table like an operator."""
    async with await psycopg.AsyncConnection.connect(servers.urls.database_url, autocommit=True) as conn:
        for model in (Assessment, IngestJob):
            await cancel(conn, model, [job], reason="by hand")


async def restarted(
    servers: EmbeddedServers,
    follower: Any,
    said: Callable[[], str],
    job: UUID,
    *,
    has_begun: Callable[[], object] = lambda: True,
) -> Any:
    """Run ``follower``, restart Postgres in the middle, then cancel ``job``; return what the follower returns."""
    following = asyncio.ensure_future(follower)
    await until(lambda: following.done() or (ask(servers, LOOKERS) > 0 and has_begun()))
    servers.stop_postgres()
    await until(lambda: following.done() or AWAY in said())
    servers.start_postgres()
    await end(servers, job)
    return await asyncio.wait_for(following, 30)


async def test_enqueue_wait_and_jobs_watch_follow_on(servers: EmbeddedServers, job: UUID, said) -> None:
    """They report once that they wait and once that Postgres is back, and end with the job."""
    told: list[str] = []

    ended: FollowedJob = await restarted(
        servers, following.follow_job(servers.urls.database_url, job, print_line=told.append), said, job
    )

    assert (ended.job.id, ended.job.status, ended.succeeded) == (job, "cancelled", False)
    assert told[-1].startswith("cancelled in ")
    assert said().splitlines() == [AWAY, BACK]


async def test_a_history_is_followed_on_without_a_gap(servers: EmbeddedServers, job: UUID, said) -> None:
    """Each version is shown once, although the job ended while nobody listened."""

    async def versions() -> list[int]:
        async with job_events(servers.urls.database_url) as events:
            return [one.version_to async for one in events.transitions(job)]

    assert await restarted(servers, versions(), said, job) == [1, 2]
    assert said().splitlines() == [AWAY, BACK]


async def test_ingest_wait_follows_on(servers: EmbeddedServers, ingest_job: UUID, said) -> None:
    """After a restart of Postgres the progress of a long file is not shown from the start again."""
    shown: list[IngestionProgress] = []

    seen: IngestionProgress = await restarted(
        servers,
        ingesting.follow_ingestion(servers.urls.database_url, ingest_job, show=shown.append),
        said,
        ingest_job,
        has_begun=lambda: shown,
    )

    assert (seen.ended, seen.completed) == (True, False)
    assert shown[0].loading
    assert said().splitlines() == [AWAY, BACK]


async def test_watching_everything_goes_on(servers: EmbeddedServers, job: UUID, said) -> None:
    """It continues until Ctrl-C."""
    watcher = asyncio.ensure_future(watching.watch(servers.urls.database_url, JobFilter()))
    await until(lambda: watcher.done() or ask(servers, LOOKERS) > 0)
    servers.stop_postgres()
    await until(lambda: watcher.done() or AWAY in said())
    servers.start_postgres()
    await until(lambda: watcher.done() or BACK in said())
    assert not watcher.done()
    watcher.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watcher

    assert said().splitlines() == [AWAY, BACK]


async def test_the_demonstration_goes_on(servers: EmbeddedServers, job: UUID, said) -> None:
    """The time without Postgres does not count as time without progress."""

    async def look(conn: Raw) -> demo.StepProgress:
        row = await (await conn.execute("SELECT completed_at FROM runtime.jobs WHERE id = %s", [job])).fetchone()
        return demo.StepProgress(1, done=bool(row and row[0]))

    follower = demo.follow_jobs(servers.urls.database_url, [job], look, show=lambda _: None, check=lambda: None)
    await restarted(servers, follower, said, job)

    assert said().splitlines() == [AWAY, BACK]


def test_a_command_that_waits_exits_by_the_outcome(servers: EmbeddedServers, job: UUID, tmp_path: Path) -> None:
    """This runs the real process, like a script does."""
    argv = [*COMMAND, "jobs", "watch", str(job)]
    env = {**os.environ, "DATABASE_URL": servers.urls.database_url}
    with subprocess.Popen(
        argv, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as command:
        assert command.stdout is not None
        assert command.stderr is not None
        try:
            assert command.stdout.readline().startswith("pending")
            servers.stop_postgres()
            assert command.stderr.readline().strip() == AWAY
            servers.start_postgres()
            asyncio.run(end(servers, job))
            output, errors = command.communicate(timeout=60)
        finally:
            command.kill()  # does nothing if it has ended

    assert (command.returncode, errors.strip()) == (1, BACK)
    assert output.splitlines()[-1].startswith("cancelled in ")


async def test_an_error_of_postgres_is_raised_at_once(servers: EmbeddedServers) -> None:
    """Waiting helps only if the server is away."""
    async with job_events(servers.urls.database_url) as events:
        with pytest.raises(psycopg.errors.UndefinedTable):
            await events.ask(lambda conn: conn.execute("SELECT * FROM nothing"))
        with pytest.raises(psycopg.errors.QueryCanceled):
            await events.ask(lambda conn: conn.execute("SET statement_timeout = 1; SELECT pg_sleep(5)"))


async def test_patience_ends_with_the_first_error(servers: EmbeddedServers, said) -> None:
    """If the server does not come back, the wait ends."""
    async with job_events(servers.urls.database_url, patience=0.5) as events:
        servers.stop_postgres()
        try:
            with pytest.raises(psycopg.OperationalError):
                await events.ask(lambda conn: conn.execute("SELECT 1"))
        finally:
            servers.start_postgres()

    assert said().splitlines() == [AWAY]
