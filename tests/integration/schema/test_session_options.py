"""No setting of a role, a database, the environment or a URL changes how a session works."""

import asyncio
import re
from collections.abc import Iterator, Mapping
from threading import Event, Thread
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from cli.connection import open_connection
from cli.doctor.servers import check_postgres
from gristmill_testing.waiting import until
from migrations.upgrade import position
from tests.conftest import migrate
from tests.support.fakes.mill import asking_mill
from tests.support.kernel import Jobs
from workers.runtime import connections
from workers.runtime.connections import PINS, connect, connect_async
from workers.runtime.database import Database, pinned_engine
from workers.runtime.enqueue import enqueue, enqueue_many
from workers.runtime.handler.registry import Registry
from workers.runtime.store.read import JobFilter, list_jobs

# Options that an operator, a hosting company or an older application may have set.
FOREIGN = {
    "client_encoding": "LATIN1",
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "sql_standard",
    "TimeZone": "Asia/Kathmandu",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "standard_conforming_strings": "off",
    "search_path": "pg_catalog",
    "transform_null_equals": "on",
    "array_nulls": "off",
    "quote_all_identifiers": "on",
    "row_security": "off",
    "gin_fuzzy_search_limit": "1",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "exit_on_error": "on",
    "default_transaction_read_only": "on",
    "lock_timeout": "1ms",
    "gristmill.user_id": "0198aaaa-0000-7000-8000-000000000001",
    "gristmill.user_signature": "1.00",
    "gristmill.changed_by": "somebody else",
    "gristmill.change_reason": "none of ours",
    "gristmill.change_action": "forge",
    "gristmill.context": "no JSON",
    "gristmill.ip_address": "no address",
    "gristmill.user_agent": "nobody",
    "statement_timeout": "1ms",
    "transaction_timeout": "1ms",
    "idle_session_timeout": "1ms",
    "idle_in_transaction_session_timeout": "1ms",
}
LEVELS = ("role", "database")
TEXT = "café crème naïve — 日本語 🌾"


def set_all(url: str, level: str, settings: dict[str, str]) -> None:
    """Set these options for everybody who connects to this database, or for the current role."""
    with connect(url, autocommit=True) as admin:
        database, role = sql.Identifier(admin.info.dbname), sql.Identifier(admin.info.user)
        whose = sql.SQL("ROLE {} IN DATABASE {}").format(role, database)
        if level == "database":
            whose = sql.SQL("DATABASE {}").format(database)
        for name, value in settings.items():
            # A list must not be quoted: then it would be a single name.
            admin.execute(sql.SQL("ALTER {} SET {} = {}").format(whose, sql.Identifier(name), sql.Literal(value)))


def seen_by_a_stranger(url: str, ask: str) -> object:
    """Return the options of a connection that pins only a timeout and an encoding."""
    options = " ".join(f"-c {name}=0" for name in FOREIGN if name.endswith("_timeout"))
    with psycopg.connect(url, client_encoding="utf8", options=options) as stranger:
        row = stranger.execute(ask.encode()).fetchone()
        assert row is not None
        return row[0]


async def shown(url: str, *names: str) -> dict[str, Mapping[str, str]]:
    """Return the options of every kind of our connections, by kind."""
    ask = "SELECT " + ", ".join(f"current_setting('{name}')" for name in names)
    database = Database(url, changed_by="test of options", idle_seconds=None)
    answers: dict[str, Any] = {}
    try:
        async with database.kernel() as conn:
            answers["kernel"] = await (await conn.execute(ask.encode())).fetchone()
        async with database.kernel_transaction() as (conn, session):
            answers["kernel transaction"] = await (await conn.execute(ask.encode())).fetchone()
            answers["its session"] = (await session.execute(text(ask))).one()
        async with database.session() as session:
            answers["session"] = (await session.execute(text(ask))).one()
        async with open_connection(url) as conn:
            answers["command"] = await (await conn.execute(ask.encode())).fetchone()
        async with await connect_async(url) as conn:
            answers["loop"] = await (await conn.execute(ask.encode())).fetchone()
    finally:
        await database.close()
    with connect(url) as plain:
        answers["plain"] = plain.execute(ask.encode()).fetchone()
    engine = pinned_engine(url)
    with engine.connect() as connection:
        answers["engine"] = connection.execute(text(ask)).one()
    engine.dispose()
    return {door: dict(zip(names, row, strict=True)) for door, row in answers.items()}


# Options that only some of our sessions set: how long they wait, and who makes changes.
OWN = {"idle_in_transaction_session_timeout", "lock_timeout", "gristmill.changed_by"}


async def undone(url: str) -> list[tuple[str, str, str]]:
    """Return every pin that is missing in a kind of connection: the kind, the option and its value."""
    found = await shown(url, *FOREIGN)
    return [
        (door, name, value)
        for door, values in found.items()
        for name, value in values.items()
        if value != PINS[name] and not (name in OWN and value != FOREIGN[name])
    ]


def test_every_pin_is_tried():
    """A new pin must be listed here with the value that it has to resist."""
    assert PINS.keys() <= FOREIGN.keys()


def test_every_setting_of_ours_is_tried(psql):
    """No role and no database may set a setting that our functions read from the session."""
    sources = psql.execute(
        "SELECT string_agg(prosrc, ' ') AS all FROM pg_proc WHERE prosrc LIKE '%gristmill.%'"
    ).fetchone()

    asked = set(re.findall(r"current_setting\('(gristmill\.\w+)'", sources["all"]))
    assert len(asked) > 5
    assert asked <= FOREIGN.keys()


@pytest.mark.parametrize("level", LEVELS)
async def test_each_kind_of_connection_keeps_every_pin(fresh_database_url, level):
    """All options are set at once."""
    set_all(fresh_database_url, level, FOREIGN)
    assert seen_by_a_stranger(fresh_database_url, "SHOW DateStyle") == "SQL, DMY"

    assert await undone(fresh_database_url) == []


ENVIRONMENT = {
    "PGCLIENTENCODING": "LATIN1",
    "PGDATESTYLE": "SQL, DMY",
    "PGTZ": "Asia/Kathmandu",
    "PGOPTIONS": "-c search_path=pg_catalog -c IntervalStyle=sql_standard -c standard_conforming_strings=off",
}


@pytest.mark.parametrize("variable", ENVIRONMENT)
async def test_the_environment_undoes_no_pin(fresh_database_url, monkeypatch, variable):
    """Libpq sends some options of the environment after our own."""
    monkeypatch.setenv(variable, ENVIRONMENT[variable])

    assert await undone(fresh_database_url) == []


async def test_the_url_undoes_no_pin_and_adds_what_it_likes(fresh_database_url):
    """The options of the URL come first: our pins win, the other options are kept."""
    options = quote("-c search_path=pg_catalog -c DateStyle=German -c work_mem=7MB")
    url = f"{fresh_database_url}?options={options}&client_encoding=latin1"

    assert await undone(url) == []
    assert {values["work_mem"] for values in (await shown(url, "work_mem")).values()} == {"7MB"}


@pytest.fixture
def at_work(fresh_database_url: str, registry: Registry) -> Iterator[None]:
    """A mill in a thread of its own that runs all jobs."""
    begun, enough = Event(), Event()

    async def work() -> None:
        async with asking_mill(fresh_database_url, registry, provider_url=None):
            begun.set()
            await asyncio.to_thread(enough.wait)

    thread = Thread(target=lambda: asyncio.run(work()))
    thread.start()
    assert begun.wait(30)
    yield
    enough.set()
    thread.join(30)


@pytest.fixture(params=[*LEVELS, "environment"])
def foreign(request, fresh_database_url, monkeypatch) -> str:
    """Set every option at one level before anybody connects."""
    if request.param == "environment":
        for name, value in ENVIRONMENT.items():
            monkeypatch.setenv(name, value)
    else:
        set_all(fresh_database_url, request.param, FOREIGN)
    return str(request.param)


@pytest.fixture
def database_url(fresh_database_url: str) -> str:
    return fresh_database_url


def test_a_whole_system_works_and_stores_what_it_was_given(foreign, at_work, gristmill, tmp_path, database_url):
    """A file is ingested, embedded, listed and exported unchanged; ``doctor`` finds no problem."""
    (tmp_path / "records.csv").write_text(f"content,category\n{TEXT},\n", encoding="utf-8")

    code, output, said = gristmill("ingest", "records.csv", "--project", "p", "--type", "task", "--wait")

    assert code == 0, said
    assert output.splitlines()[1] == "completed: 1 read, 1 saved, 0 skipped, 1 embedded"
    for arguments in (("records", "list", "p"), ("jobs", "list"), ("stages",), ("projects", "list")):
        code, output, said = gristmill(*arguments)
        assert code == 0, said
        assert TEXT in output or arguments[0] != "records"
    assert seen_by_a_stranger(database_url, "SELECT content FROM operations.data_records") == TEXT


async def test_jobs_are_enqueued_run_and_listed(foreign, database_url, registry):
    """One by one and by COPY, with texts of every script; the checks of ``doctor`` pass."""
    database = Database(database_url, changed_by="test")
    try:
        async with database.session() as session:
            await _enqueue(session)
        async with asking_mill(database_url, registry, provider_url=None):
            jobs = Jobs(database, registry)

            async def all_done() -> bool:
                return await jobs.count(status="completed") == 201

            await until(all_done, within=30)
        async with open_connection(database_url) as conn:
            listed = await list_jobs(conn, JobFilter(), limit=500)
        assert {job.status for job in listed} == {"completed"}
        assert await jobs.count(key=TEXT) == 201
    finally:
        await database.close()
    checks = {check.name: check.state async for check in check_postgres(database_url, quick=False)}
    assert "failed" not in {checks["Postgres"], checks["schema"], checks["clock"]}


async def _enqueue(session: AsyncSession) -> None:
    await enqueue(session, "proving.plain", {"key": TEXT})
    await enqueue_many(session, "proving.plain", [{"key": TEXT}] * 200)


@pytest.mark.parametrize("level", LEVELS)
def test_migrations_run_whatever_is_set(empty_database_url, level):
    """From an empty database to the newest revision and back."""
    set_all(empty_database_url, level, FOREIGN)

    migrate(empty_database_url)

    assert position(empty_database_url).usable
    migrate(empty_database_url, to="base")


def test_a_session_without_triggers_is_refused_in_a_line(fresh_database_url):
    """Without triggers there is no history and no guard, so no process of ours may use such a session."""
    set_all(fresh_database_url, "database", {"session_replication_role": "replica"})

    with pytest.raises(psycopg.OperationalError, match="session_replication_role must be 'origin', got 'replica'"):
        connect(fresh_database_url)


def test_a_database_that_cannot_store_every_text_is_refused_in_a_line(servers):
    """The encoding of a database is chosen when it is created."""
    url = servers.urls.database_url
    with connect(url, autocommit=True) as admin:
        admin.execute("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 LOCALE_PROVIDER libc LOCALE 'C'")
    try:
        with pytest.raises(psycopg.OperationalError, match="encoding must be UTF8, got LATIN1"):
            connections.connect(url.rsplit("/", 1)[0] + "/latin")
    finally:
        with connect(url, autocommit=True) as admin:
            admin.execute("DROP DATABASE latin")
