"""A provider that is away: jobs wait, spend no attempt, and hardly ask it; on real Postgres and a real HTTP server."""

import asyncio
import socket
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.orm import Session

from gristmill_testing.mill import Heard, mill
from gristmill_testing.waiting import until
from tests.conftest import sqlalchemy_url
from tests.support.fakes.openai_server import FakeOpenAI
from tests.support.kept_model import KeptModel
from workers.llm.kept.postgres_kept import PostgresKept
from workers.llm.pause_store import SharedPauses
from workers.llm.pauses import Gate
from workers.llm.provider import build
from workers.runtime.database import Database
from workers.runtime.enqueue import enqueue, enqueue_many
from workers.runtime.handler.endurance import DEFAULT_PATIENCE
from workers.runtime.handler.errors import Unavailable
from workers.runtime.handler.registry import Registry
from workers.runtime.store.intervene import retry

FIRST, LONGEST = timedelta(seconds=0.1), timedelta(seconds=0.4)
JOBS = 50


@pytest.fixture
def fake() -> Iterator[FakeOpenAI]:
    """A fake OpenAI server."""
    with FakeOpenAI() as fake:
        yield fake


class Table:
    """The scoring jobs of a test."""

    def __init__(self, url: str, connection: Connection) -> None:
        self._engine = create_engine(sqlalchemy_url(url))
        self.connection = connection

    def put(self, count: int = 1, *, task: str = "Judge.") -> list[uuid.UUID]:
        """Enqueue jobs that ask different questions."""
        sql = "INSERT INTO scoring.profiles (name) SELECT 'p' || n FROM generate_series(1, :n) AS n RETURNING id"
        profiles = self.connection.execute(text(sql), {"n": count}).scalars().all()
        jobs = [{"profile_id": str(one), "prompt": f"{task} {place}"} for place, one in enumerate(profiles)]
        with Session(self._engine) as session, session.begin():
            return [one.id for one in enqueue_many(session, "scoring.score", jobs)]

    def all(self) -> list[Any]:
        return list(self.connection.execute(text("SELECT * FROM scoring.scoring_jobs ORDER BY id")))

    def one(self, job: uuid.UUID) -> Any:
        return next(row for row in self.all() if row.id == job)

    def ask(self, sql: str, **values: Any) -> list[Any]:
        return list(self.connection.execute(text(sql), values))

    async def until(self, condition: Callable[[], bool], *, seconds: float = 30.0) -> None:
        give_up = time.monotonic() + seconds
        while not condition():
            states = {(row.status, row.change_action, row.change_reason) for row in self.all()}
            assert time.monotonic() < give_up, f"still {states}"
            await asyncio.sleep(0.02)

    def close(self) -> None:
        self._engine.dispose()


@pytest.fixture
def table(database_url: str, connection: Connection) -> Iterator[Table]:
    """The test's jobs."""
    table = Table(database_url, connection)
    yield table
    table.close()


@asynccontextmanager
async def workers(
    url: str,
    registry: Registry,
    provider_url: str,
    *,
    timeout: float = 20.0,
    patience: timedelta | None = DEFAULT_PATIENCE,
) -> AsyncIterator[Heard]:
    """Run a mill whose pauses are short, and shared as those of every worker are."""
    database = Database(url, changed_by="worker:provider", pool_size=1)
    llm = build(
        api_key="sk-test",
        base_url=provider_url,
        model=None,
        connect_timeout=1.0,
        timeout=timeout,
        max_connections=100,
        gate=Gate(SharedPauses(database), first=FIRST, longest=LONGEST),
    )
    kept = PostgresKept(database)
    model = KeptModel(llm, kept, close_kept=kept.aclose)
    async with mill(url, registry, model, slots=JOBS, patience=patience) as heard:
        yield heard
    await model.aclose()
    await database.close()


OUTAGES = [
    pytest.param({"kind": "status", "status": 500}, id="500"),
    pytest.param({"kind": "status", "status": 502}, id="502"),
    pytest.param({"kind": "status", "status": 503, "retry_after": "1"}, id="503 with Retry-After"),
    pytest.param({"kind": "status", "status": 529}, id="529"),
    pytest.param({"kind": "status", "status": 401}, id="401"),
    pytest.param({"kind": "status", "status": 403}, id="403"),
    pytest.param({"kind": "error_200"}, id="an error with HTTP 200"),
    pytest.param({"kind": "html"}, id="a page"),
    pytest.param({"kind": "disconnect"}, id="disconnect"),
    pytest.param({"kind": "hang"}, id="timeout"),
]


@pytest.mark.parametrize("outage", OUTAGES)
async def test_outage_costs_nobody_an_attempt_and_is_hardly_asked(
    database_url: str, registry: Registry, table: Table, fake: FakeOpenAI, outage: dict[str, Any]
) -> None:
    """Fifty jobs meet a provider that is away for three seconds after it worked: all complete, none the poorer."""
    table.put(1, task="The first.")
    async with workers(database_url, registry, fake.url, timeout=2.0 if outage["kind"] == "hang" else 20.0) as heard:
        await table.until(lambda: all(row.status == "completed" for row in table.all()))
        fake.script(default=outage)
        table.put(JOBS)
        await table.until(lambda: sum(row.change_action == "snooze" for row in table.all()) >= JOBS - 2)
        waits = table.ask("SELECT DISTINCT wait_reason FROM runtime.jobs WHERE wait_reason LIKE 'snoozed: %'")
        await asyncio.sleep(3.0)
        asked = fake.calls - 1
        assert not any(row.status == "completed" for row in table.all()[1:])
        fake.script(default={"kind": "answer"})
        await table.until(lambda: all(row.status == "completed" for row in table.all()))

    assert {row.retry_count for row in table.all()} == {0}
    assert {event for event, *_ in heard.events} <= {"started", "snooze", "complete"}
    # Each asked once, when nobody knew; afterwards one at a time did, not each of fifty at every turn.
    assert asked <= JOBS + 25
    assert table.ask("SELECT 1 FROM runtime.provider_pauses") == []
    assert all(f"provider {fake.url} is away since " in row.wait_reason for row in waits)
    assert all(" UTC (" in row.wait_reason and ", next try at " in row.wait_reason for row in waits)


async def test_exhausted_quota_is_asked_about_once_in_minutes(
    database_url: str, registry: Registry, table: Table, fake: FakeOpenAI
) -> None:
    """An empty account pauses its provider for five minutes; what comes meanwhile does not ask."""
    fake.script(default={"kind": "status", "status": 402})
    table.put(1)
    async with workers(database_url, registry, fake.url):
        await table.until(lambda: all(row.change_action == "snooze" for row in table.all()))
        table.put(JOBS)
        await table.until(lambda: all(row.change_action == "snooze" for row in table.all()))

    assert fake.calls == 1
    assert {row.retry_count for row in table.all()} == {0}
    (pause,) = table.ask("SELECT provider, until - since AS lasts, reason FROM runtime.provider_pauses")
    assert pause.provider == fake.url
    assert pause.lasts == timedelta(minutes=5)
    assert "quota is exhausted" in pause.reason


@contextmanager
def unused_port() -> Iterator[int]:
    """Yield a port that nobody else takes meanwhile: it is bound, and refuses connections."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


async def test_refused_connections_are_waited_for(database_url: str, registry: Registry, table: Table) -> None:
    """A server that is started later than its workers loses no job."""
    table.put(JOBS)
    with unused_port() as port:
        async with workers(database_url, registry, f"http://127.0.0.1:{port}/v1"):
            await table.until(lambda: all(row.change_action == "snooze" for row in table.all()))
            reasons = [row.change_reason for row in table.all()]
            with FakeOpenAI(port=port) as fake:
                await table.until(lambda: all(row.status == "completed" for row in table.all()))
                calls = fake.calls

    assert {row.retry_count for row in table.all()} == {0}
    assert all("(unreachable: ConnectError)" in reason for reason in reasons)
    assert calls == JOBS


async def test_retry_after_of_an_outage_holds_everybody(
    database_url: str, registry: Registry, table: Table, fake: FakeOpenAI
) -> None:
    """503 with ``Retry-After: 120``: nobody asks before two minutes are over."""
    fake.script(default={"kind": "status", "status": 503, "retry_after": "120"})
    table.put(1)
    async with workers(database_url, registry, fake.url):
        await table.until(lambda: all(row.change_action == "snooze" for row in table.all()))
        table.put(JOBS)
        await table.until(lambda: all(row.change_action == "snooze" for row in table.all()))

    assert fake.calls == 1
    assert all(row.due_at - row.updated_at > timedelta(seconds=115) for row in table.all())


async def test_request_that_is_itself_at_fault_comes_to_its_end(
    database_url: str, registry: Registry, table: Table, fake: FakeOpenAI
) -> None:
    """llama.cpp answers some input with 500 while it answers others: that job spends its attempts after two calls."""
    fake.script(rules=[{"about": "Poison", "kind": "status", "status": 500}])
    (poison,) = table.put(task="Poison")

    ended = 1

    def has_run_again() -> bool:
        row = table.one(poison)
        return row.version > ended and row.change_action in {"snooze", "retry", "fail"}

    async def hurry() -> None:
        """Have another question answered after the last failure, then let the job run again."""
        nonlocal ended
        await table.until(has_run_again)
        ended = table.one(poison).version
        others = len(table.all())
        table.put(task=f"Other {others}.")
        await table.until(lambda: sum(row.status == "completed" for row in table.all()) >= others)
        table.connection.execute(text("UPDATE scoring.scoring_jobs SET due_at = NULL WHERE due_at IS NOT NULL"))

    async with workers(database_url, registry, fake.url):
        give_up = time.monotonic() + 120
        while table.one(poison).status != "failed" and time.monotonic() < give_up:
            await hurry()
            await asyncio.sleep(0.05)

    row = table.one(poison)
    assert (row.status, row.retry_count) == ("failed", 5)
    assert "HTTP 500" in row.error_message
    assert {row.retry_count for row in table.all() if row.id != poison} == {0}
    asked = [call for call in fake.ledger if call.job_id == poison]
    assert len(asked) == 8


async def test_patience_ends_with_a_plain_reason_and_a_retry_begins_it_anew(
    database_url: str, registry: Registry, table: Table, fake: FakeOpenAI
) -> None:
    """A job that has waited for as long as it may fails without a spent attempt; who retries it waits again."""
    fake.script(default={"kind": "status", "status": 503})
    (job,) = table.put()
    async with workers(database_url, registry, fake.url, patience=timedelta(seconds=1)):
        await table.until(lambda: table.one(job).status == "failed")
        failed = table.one(job)
    database = Database(database_url, changed_by="test")
    async with database.kernel() as conn:
        assert await retry(conn, registry["scoring.score"].model, [job], reason="mended") == {job}
    await database.close()
    async with workers(database_url, registry, fake.url, patience=timedelta(hours=1)):
        await table.until(lambda: table.one(job).change_action == "snooze")

    assert failed.retry_count == 0
    assert "is away since" in failed.error_message
    assert "HTTP 503" in failed.error_message
    assert "did not come back within" in failed.error_message


async def test_restart_forgets_neither_the_pause_nor_since_when(
    database_url: str, registry: Registry, table: Table, fake: FakeOpenAI
) -> None:
    """A new process does not ask a provider that an old one found to be away for two minutes."""
    fake.script(default={"kind": "status", "status": 503, "retry_after": "120"})
    (first,) = table.put()
    async with workers(database_url, registry, fake.url):
        await table.until(lambda: table.one(first).change_action == "snooze")
    (second,) = table.put(task="Another.")
    async with workers(database_url, registry, fake.url):
        await table.until(lambda: table.one(second).change_action == "snooze")

    assert fake.calls == 1
    since = [table.one(job).change_reason.partition(" (")[0] for job in (first, second)]
    assert since[0] == since[1]


async def test_pause_that_nobody_renewed_is_of_another_outage(database_url: str, fake: FakeOpenAI) -> None:
    """All processes that knew of it have ended: neither its patience nor its pause counts today."""
    database = Database(database_url, changed_by="test")
    store = SharedPauses(database)
    async with database.kernel() as conn:
        await conn.execute(
            "INSERT INTO runtime.provider_pauses (provider, since, until, reason) "
            "VALUES ('p', now() - interval '2 days', now() - interval '1 day', 'old')"
        )

    found = await store.find("p")
    begun = await store.begin("p", "new", asked=timedelta(), first=FIRST, longest=LONGEST)
    async with database.kernel() as conn:
        row = await (await conn.execute("SELECT now() - since, reason FROM runtime.provider_pauses")).fetchone()
    await database.close()

    assert found == {}
    assert begun is not None
    assert begun.wait <= FIRST
    assert row is not None
    assert row[0] < timedelta(seconds=5)
    assert row[1] == "new"


async def test_of_all_processes_one_probes(database_url: str) -> None:
    """Ten gates whose pause has passed: one call goes through, and its success opens all."""
    database = Database(database_url, changed_by="test")
    gates = [Gate(SharedPauses(database), first=timedelta(seconds=3), longest=timedelta(seconds=5)) for _ in range(10)]
    asked = []
    answers = asyncio.Event()

    async def ask(gate: Gate) -> str:
        try:
            async with gate.asking("s", "m", request="r"):
                asked.append(gate)
                await answers.wait()
        except Unavailable as error:
            return "paused" if error.paused else "asked"
        return "answered"

    with pytest.raises(Unavailable):
        async with gates[0].asking("s", "m", request="r"):
            raise Unavailable("HTTP 503", certain=True)
    for gate in gates:
        with pytest.raises(Unavailable):
            await gate.check("s", "m")
    for gate in gates:
        while True:
            try:
                await gate.check("s", "m")
            except Unavailable:
                await asyncio.sleep(0.05)
            else:
                break
    calls = [asyncio.create_task(ask(gate)) for gate in gates]
    await until(lambda: sum(call.done() for call in calls) >= 9)
    answers.set()
    ended = [await call for call in calls]
    await database.close()

    assert sorted(ended) == ["answered"] + ["paused"] * 9
    assert len(asked) == 1


@pytest.mark.parametrize("state", ["53100", "53200", "53300", "57P03", "25006", "55P03", "40P01", "40001", "57014"])
async def test_database_that_cannot_serve_costs_no_attempt(
    database_url: str, registry: Registry, table: Table, fake: FakeOpenAI, state: str
) -> None:
    """To look for a kept answer meets a full disk: the job waits, and its attempts are for its own faults."""
    table.connection.execute(
        text(f"""
        CREATE FUNCTION scoring.full_disk() RETURNS trigger LANGUAGE plpgsql AS
          $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '{state}'; END $$;
        CREATE TRIGGER full_disk BEFORE INSERT ON llm.flights FOR EACH STATEMENT
          EXECUTE FUNCTION scoring.full_disk()""")
    )
    (job,) = table.put()
    async with workers(database_url, registry, fake.url):
        await table.until(lambda: table.one(job).change_action == "snooze")
        waiting = table.one(job)
        table.connection.execute(text("DROP FUNCTION scoring.full_disk CASCADE"))
        table.connection.execute(text("UPDATE scoring.scoring_jobs SET due_at = NULL WHERE due_at IS NOT NULL"))
        await table.until(lambda: table.one(job).status == "completed")

    assert waiting.change_reason.startswith("database cannot be used: ")
    assert "could not extend file" in waiting.change_reason
    assert table.one(job).retry_count == 0


async def test_full_disk_at_the_settle_loses_neither_the_answer_nor_an_attempt(
    database_url: str, registry: Registry, table: Table, fake: FakeOpenAI
) -> None:
    """What was paid for waits in the worker until there is room for it."""
    table.connection.execute(
        text("""
        CREATE SEQUENCE scoring.refusals;
        CREATE FUNCTION scoring.full_disk() RETURNS trigger LANGUAGE plpgsql AS
          $$ BEGIN
               IF NEW.status = 'completed' THEN
                 PERFORM nextval('scoring.refusals');
                 RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100';
               END IF;
               RETURN NEW;
             END $$;
        CREATE TRIGGER full_disk BEFORE UPDATE ON scoring.scoring_jobs FOR EACH ROW
          EXECUTE FUNCTION scoring.full_disk()""")
    )
    (job,) = table.put()
    async with workers(database_url, registry, fake.url):
        await table.until(lambda: table.ask("SELECT last_value FROM scoring.refusals")[0].last_value >= 2)
        table.connection.execute(text("DROP FUNCTION scoring.full_disk CASCADE"))
        table.connection.execute(text("DROP SEQUENCE scoring.refusals"))
        await table.until(lambda: table.one(job).status == "completed")

    assert (table.one(job).retry_count, fake.calls) == (0, 1)


async def test_every_stage_that_asks_a_model_waits(
    database_url: str, registry: Registry, table: Table, fake: FakeOpenAI
) -> None:
    """Assessments, composites too; scoring, embedding and analyses have tests of their own."""
    fake.script(default={"kind": "status", "status": 500})
    rubric = {
        "assessmentType": "llm_rubric",
        "options": {"criteria": [{"name": "use", "description": "solves a problem"}], "content": "text"},
    }
    whole = {"assessmentType": "composite", "options": {"parts": [rubric]}}
    engine = create_engine(sqlalchemy_url(database_url))
    with Session(engine) as session, session.begin():
        for name, request in (("one", rubric), ("many", whole)):
            data = {"serverName": "s", **request}
            enqueue(session, "assessment.assess", {"assessment_id": name, "request_data": data})
    engine.dispose()

    def rows() -> list[Any]:
        return table.ask("SELECT * FROM assessments.assessment_states")

    async with workers(database_url, registry, fake.url):
        await table.until(lambda: all(row.change_action == "snooze" for row in rows()))
        waiting = rows()
        fake.script(default={"kind": "answer"})
        await table.until(lambda: all(row.completed_at for row in rows()))

    assert all("is away since" in row.change_reason for row in waiting)
    assert [row.retry_count for row in rows()] == [0, 0]


async def fail(gate: Gate, *, of: str = "either") -> None:
    with pytest.raises(Unavailable):
        async with gate.asking("s", "m", request="r"):
            raise Unavailable("HTTP 503", certain=True, of="server" if of == "server" else "either")


async def open_again(gate: Gate) -> None:
    """Wait until a pause has passed."""
    give_up = time.monotonic() + 30
    while True:
        try:
            return await gate.check("s", "m")
        except Unavailable:
            assert time.monotonic() < give_up
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("of", ["server", "model"])
async def test_cancelled_probe_leaves_the_turn_to_any_process(database_url: str, of: str) -> None:
    """A drain, a cancelled job or a deadline ends the call: the next one asks at once, elsewhere too."""
    database = Database(database_url, changed_by="test")
    one, other = (Gate(SharedPauses(database), first=timedelta(seconds=0.2)) for _ in range(2))
    await fail(one, of=of)
    await open_again(one)
    asks = asyncio.Event()

    async def probe() -> None:
        async with one.asking("s", "m", request="probe", within=timedelta(hours=1)):
            asks.set()
            await asyncio.Event().wait()

    probing = asyncio.create_task(probe())
    await asks.wait()
    probing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probing
    async with other.asking("s", "m", request="r"):
        pass
    await database.close()


KILLED = """
import asyncio, sys
from datetime import timedelta
from workers.llm.pause_store import SharedPauses
from workers.llm.pauses import Gate
from workers.runtime.database import Database

async def main():
    gate = Gate(SharedPauses(Database(sys.argv[1], changed_by="killed")))
    async with gate.asking("s", "m", request="probe", within=timedelta(seconds=1)):
        print("asks", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_killed_probe_keeps_others_waiting_for_seconds_beyond_its_timeout(database_url: str) -> None:
    """Its process can give nothing back."""
    database = Database(database_url, changed_by="test")
    gate = Gate(SharedPauses(database), first=timedelta(seconds=0.2))
    await fail(gate)
    await open_again(gate)
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED, database_url, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    assert await child.stdout.readline() == b"asks\n"
    child.kill()
    await child.wait()
    killed = time.monotonic()

    while True:
        try:
            async with gate.asking("s", "m", request="r"):
                break
        except Unavailable:
            assert time.monotonic() - killed < 20
            await asyncio.sleep(0.1)
    await database.close()

    assert time.monotonic() - killed < 12


async def test_names_of_models_leave_no_more_rows_than_are_of_use(database_url: str) -> None:
    """A pause that nobody renewed goes with the next one; beyond a thousand none is kept."""
    database = Database(database_url, changed_by="test")
    store = SharedPauses(database)
    async with database.kernel() as conn:
        await conn.execute(
            "INSERT INTO runtime.provider_pauses (provider, since, until, reason)"
            " SELECT 's|' || n, now() - interval '1 hour', now() - interval '20 minutes', 'old'"
            "   FROM generate_series(1, 50) AS n"
        )
        await store.begin("s|new", "new", asked=timedelta(), first=FIRST, longest=LONGEST)
        left = await (await conn.execute("SELECT provider FROM runtime.provider_pauses")).fetchall()
        await conn.execute(
            "INSERT INTO runtime.provider_pauses (provider, since, until, reason)"
            " SELECT 's|' || n, now(), now() + interval '1 hour', 'many' FROM generate_series(1, 1000) AS n"
        )
    beyond = await store.begin("s|beyond", "new", asked=timedelta(), first=FIRST, longest=LONGEST)
    longer = await store.begin("s|new", "new", asked=timedelta(hours=1), first=FIRST, longest=LONGEST)
    known = await store.find("s")
    await database.close()

    assert left == [("s|new",)]
    assert beyond is None
    assert longer is not None
    assert len(known) == 1_000
