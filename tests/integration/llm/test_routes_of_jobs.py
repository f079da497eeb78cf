"""Jobs along routes, in a whole mill on real Postgres: who answered is on the job, and who waits spends no attempt."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.orm import Session

from gristmill_testing.mill import mill
from tests.conftest import sqlalchemy_url
from tests.support.fakes.analyses import Analyses
from tests.support.fakes.openai_server import FakeOpenAI
from tests.support.llm_control import Ledger
from workers.llm.pause_store import SharedPauses
from workers.llm.pauses import Gate
from workers.llm.provider import ClientOptions, controlled
from workers.llm.routing.following import Seen
from workers.llm.routing.tables import read
from workers.llm.routing.virtual import Environment, merged
from workers.runtime.database import Database
from workers.runtime.enqueue import enqueue, enqueue_many
from workers.runtime.handler.registry import Registry
from workers.vectorization.similar import embedded

FIRST = timedelta(seconds=0.1)
OPTIONS = ClientOptions(connect_timeout=2.0, timeout=10.0, max_connections=64)


@pytest.fixture
def first() -> Iterator[FakeOpenAI]:
    """The server that is asked first."""
    with FakeOpenAI() as fake:
        yield fake


@pytest.fixture
def second() -> Iterator[FakeOpenAI]:
    """The server that is asked if the first one cannot answer."""
    with FakeOpenAI() as fake:
        yield fake


class Table:
    """The rows of a test."""

    def __init__(self, url: str, connection: Connection) -> None:
        self.engine = create_engine(sqlalchemy_url(url))
        self._connection = connection

    def ask(self, sql: str, **values: Any) -> Sequence[Any]:
        return self._connection.execute(text(sql), values).all()

    def run(self, sql: str, **values: Any) -> None:
        self._connection.execute(text(sql), values)

    def route(self, *servers: FakeOpenAI, name: str = "default") -> None:
        """Have the default route ask these servers in their order."""
        self.run("INSERT INTO llm.routes (name, serves) VALUES (:name, 'chat')", name=name)
        for place, server in enumerate(servers):
            self.run("INSERT INTO llm.providers (name, kind, base_url) VALUES (:name, 'compatible', :url)",
                     name=f"p{place}", url=server.url)  # fmt: skip
            self.run("INSERT INTO llm.route_steps (route, position, provider, model) VALUES (:r, :place, :p, :m)",
                     r=name, place=place, p=f"p{place}", m=f"m{place}")  # fmt: skip

    def put(self, count: int = 1, *, model: str = "gpt-3.5-turbo") -> list[uuid.UUID]:
        """Enqueue scoring jobs."""
        sql = "INSERT INTO scoring.profiles (name) SELECT 'p' || n FROM generate_series(1, :n) AS n RETURNING id"
        jobs = [{"profile_id": str(row.id), "prompt": "Judge.", "model_name": model} for row in self.ask(sql, n=count)]
        with Session(self.engine) as session, session.begin():
            return [one.id for one in enqueue_many(session, "scoring.score", jobs)]

    async def until(self, action: str, table: str = "scoring.scoring_jobs") -> Sequence[Any]:
        """Return all jobs once the last transition of each is ``action``."""
        give_up = time.monotonic() + 30
        while True:
            rows = self.ask(f"SELECT * FROM {table}")
            if {row.change_action for row in rows} == {action}:
                return rows
            assert time.monotonic() < give_up, [(row.change_action, row.change_reason) for row in rows]
            await asyncio.sleep(0.02)


@pytest.fixture
def table(database_url: str, connection: Connection) -> Iterator[Table]:
    """The test's rows."""
    table = Table(database_url, connection)
    yield table
    table.engine.dispose()


@asynccontextmanager
async def working(url: str, registry: Registry, ledger: Ledger) -> AsyncIterator[Any]:
    """Run a mill whose model follows the tables."""
    own = Database(url, changed_by="worker:routes", pool_size=1)

    async def look() -> Seen:
        async with own.session() as session:
            rows = await read(session, decrypt=str)
        found = merged(Environment(), None, providers=rows.providers, routes=rows.routes, bindings=rows.bindings)
        return Seen(found, rows.pauses)

    gate = Gate(SharedPauses(own), first=FIRST, longest=FIRST)
    llm = controlled(look=look, options=OPTIONS, gate=gate, control=ledger.control, free=own.close, look_seconds=0.1)
    async with mill(url, registry, llm):
        yield llm
    await llm.aclose()


async def test_jobs_finish_by_the_next_step_and_say_so(database_url, registry, table, first, second):
    """Who answered, who did not and why is on each job."""
    first.script(default={"kind": "status", "status": 503})
    table.route(first, second)
    table.put(5)
    ledger = Ledger()

    async with working(database_url, registry, ledger):
        rows = await table.until("complete")

    for row in rows:
        path = row.llm_response["call"]["path"]
        assert [(one["provider"], one["model"]) for one in path] == [("p0", "m0"), ("p1", "m1")]
        assert "HTTP 503" in path[0]["why_not"]
        assert row.llm_response["call"]["model"] == "m1"
        assert row.retry_count == 0
    assert {call.caller.job_id for call in ledger.reserved} == {row.id for row in rows}
    assert {call.step for call in ledger.reserved} == {0, 1}


async def test_an_answer_by_the_first_step_says_nothing_of_a_path(database_url, registry, table, first, second):
    """There is nothing to tell."""
    table.route(first, second)
    table.put()

    async with working(database_url, registry, Ledger()):
        (row,) = await table.until("complete")

    assert "path" not in row.llm_response["call"]
    assert second.calls == 0


async def test_a_job_that_names_its_route_takes_it(database_url, registry, table, first):
    """In the place of its model's name."""
    table.route(first, name="careful")
    table.put(model="route:careful")

    async with working(database_url, registry, Ledger()):
        (row,) = await table.until("complete")

    assert row.llm_response["call"]["model"] == "m0"


async def test_an_assessment_flags_that_another_model_answered(database_url, registry, table, first, second):
    """Whoever reads its result reads that."""
    first.script(default={"kind": "status", "status": 503})
    table.route(first, second)
    criteria = [{"name": "use", "description": "solves a problem"}]
    data = {
        "serverName": "s",
        "assessmentType": "llm_rubric",
        "options": {"criteria": criteria, "content": "text"},
    }
    with Session(table.engine) as session, session.begin():
        enqueue(session, "assessment.assess", {"assessment_id": "a", "request_data": data})

    async with working(database_url, registry, Ledger()):
        (row,) = await table.until("complete", "assessments.assessment_states")

    assert any(flag.startswith("answered by p1 m1 instead (p0 m0: ") for flag in row.result_data["flags"])


async def test_an_analysis_refuses_a_route_that_may_fall_back(database_url, registry, table, connection, first):
    """Its ratings are compared by model: it fails with one clear line, before anything is asked."""
    table.route(first, first)
    analyses = Analyses(database_url, connection)
    project = analyses.project()
    analyses.tasks(project, 2)
    job = analyses.put(project)

    async with working(database_url, registry, Ledger()):
        row = await analyses.until(job, "fail")
    analyses.close()

    assert "stage analytics.align compares models, and 2 may answer by route 'default'" in row.error
    assert first.calls == 0


async def test_a_key_without_quota_waits_and_goes_on_when_it_is_paid(database_url, registry, table, first):
    """Nothing fails, no attempt is spent, and every job says what to do; another key is asked at once."""
    first.script(default={"kind": "status", "status": 402})
    table.route(first)
    table.put(10)

    async with working(database_url, registry, Ledger()):
        waiting = await table.until("snooze")
        table.put(10)
        await table.until("snooze")
        asked = first.calls
        first.script(default={"kind": "answer"})
        table.run("DELETE FROM runtime.provider_pauses")
        table.run("UPDATE scoring.scoring_jobs SET due_at = NULL")
        rows = await table.until("complete")

    assert asked <= 10
    assert all("quota of provider p0 is used up" in row.change_reason for row in waiting)
    assert all("`gristmill llm resume p0`" in row.change_reason for row in waiting)
    assert {row.retry_count for row in rows} == {0}


async def test_a_question_is_embedded_as_a_query(database_url, registry, table, first):
    """And is compared with what was embedded as a document by the same model."""
    table.run("INSERT INTO llm.providers (name, kind, base_url) VALUES ('e', 'compatible', :url)", url=first.url)
    table.run("INSERT INTO llm.routes (name, serves) VALUES ('default-embeddings', 'embeddings')")
    table.run("INSERT INTO llm.route_steps (route, position, provider, model, document_prefix, query_prefix) "
              "VALUES ('default-embeddings', 0, 'e', 'e5', 'passage: ', 'query: ')")  # fmt: skip

    async with working(database_url, registry, Ledger()) as llm:
        vector = await embedded(llm, "where is it?")

    assert first.snapshot()["embeddings"]["requests"][0]["input"] == ["query: where is it?"]
    assert vector.model == "e5 ('passage: ')"
