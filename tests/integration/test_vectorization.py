"""Vectorization through the real kernel on real Postgres, against a real HTTP server that counts and misbehaves."""

import json
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import psycopg
import pytest
from pydantic import BaseModel
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from models.operations import IngestJob
from tests.conftest import sqlalchemy_url
from tests.fakes.embedder import vector_of
from tests.fakes.mill import Heard, mill
from tests.fakes.openai_server import FakeOpenAI
from tests.waiting import until
from workers.llm.provider import build
from workers.runtime.context import Context
from workers.runtime.enqueue import enqueue
from workers.runtime.outcomes import Complete, Outcome
from workers.runtime.ports import EmbeddingLimits
from workers.runtime.registry import Registry, stage
from workers.runtime.store.intervene import cancel

LIMITS = EmbeddingLimits(texts=8, tokens=2_000, requests=4)
Running = Callable[..., AbstractAsyncContextManager[Heard]]


class Anything(BaseModel):
    """A payload that no test writes."""


@pytest.fixture(scope="module")
def stages(registry: Registry) -> Registry:
    """The stage under test, behind a first stage that has nothing to load."""
    made = Registry()
    made.add(registry["vectorization.embed"])

    @stage("ingestion.ingest", of=IngestJob, payload=Anything, into=made)
    async def load_nothing(_job: IngestJob, _ctx: Context) -> Outcome:
        return Complete()

    return made


@pytest.fixture
def fake() -> Iterator[FakeOpenAI]:
    """A fake OpenAI server."""
    with FakeOpenAI() as fake:
        yield fake


@pytest.fixture
def running(database_url: str, stages: Registry, fake: FakeOpenAI) -> Running:
    """Run a mill whose vectors come from the fake server."""

    @asynccontextmanager
    async def run(*, model: str = "embed-1", limits: EmbeddingLimits = LIMITS) -> AsyncIterator[Heard]:
        llm = build(
            api_key="k",
            base_url=fake.url,
            model=None,
            connect_timeout=2.0,
            timeout=10.0,
            max_connections=16,
            embedding_model=model,
            embedding_limits=limits,
        )
        async with mill(database_url, stages, llm) as heard:
            yield heard
        await llm.aclose()

    return run


class Rows:
    """Projects, records and jobs of a test's database: put in, look, wait."""

    def __init__(self, url: str, psql: "psycopg.Connection[dict[str, Any]]") -> None:
        self._url = url
        self._psql = psql
        self.project = self.make_project()

    def one(self, sql: str, *values: Any) -> Any:
        row = self._psql.execute(sql.encode(), values).fetchone()
        assert row is not None
        return next(iter(row.values()))

    def make_project(self) -> uuid.UUID:
        made: uuid.UUID = self.one("INSERT INTO operations.projects (name) VALUES (%s) RETURNING id", str(uuid.uuid4()))
        return made

    def add(self, *texts: str, job: uuid.UUID | None = None, type_: str = "TASK", **more: Any) -> list[uuid.UUID]:
        """Insert records without vectors; return their ids in order."""
        project = more.get("project", self.project)
        sql = """INSERT INTO operations.data_records ("projectId", type, source, content, "ingestJobId")
                 VALUES (%s, %s::operations."RecordType", 'test', %s, %s) RETURNING id"""
        return [self.one(sql, project, type_, text, job) for text in texts]

    def job(self, *, loaded: bool = True, type_: str = "TASK", project: uuid.UUID | None = None) -> uuid.UUID:
        """Enqueue a job as having loaded a file, or as one that re-embeds; its first stage is still to come."""
        engine = create_engine(sqlalchemy_url(self._url))
        payload = {"project_id": str(project or self.project), "type": type_}
        with Session(engine) as session, session.begin():
            job = enqueue(session, "vectorization.embed", payload, due_at="2999-01-01T00:00:00Z").id
        engine.dispose()
        if loaded:
            self.one("UPDATE operations.ingest_jobs SET source = 'csv:test.csv' WHERE id = %s RETURNING id", job)
        return job

    def start(self, job: uuid.UUID) -> None:
        """Let the job be dispatched."""
        self.one("UPDATE operations.ingest_jobs SET due_at = NULL WHERE id = %s RETURNING id", job)

    def row(self, job: uuid.UUID) -> dict[str, Any]:
        row = self._psql.execute("SELECT * FROM operations.ingest_jobs WHERE id = %s", (job,)).fetchone()
        assert row is not None
        return row

    def vectors(self) -> dict[str, tuple[list[float], str | None]]:
        """Return every record's vector and its model, by content."""
        rows = self._psql.execute('SELECT content, embedding, "embeddingModel" AS model FROM operations.data_records')
        return {row["content"]: (row["embedding"], row["model"]) for row in rows.fetchall()}

    def assert_embedded(self, *texts: str, model: str = "embed-1", dimension: int = 8) -> None:
        """Fail unless each of these records has the vector that the model gives its text."""
        found = self.vectors()
        for text in texts:
            assert found[text] == (vector_of(text, model, dimension), model), text

    async def moved(self, job: uuid.UUID, action: str, *, within: float = 20.0) -> dict[str, Any]:
        """Return the job's row once its last transition, in its second stage, is ``action``."""
        await until(lambda: self._last(job) == (action, "QUEUED_FOR_VEC"), within=within)
        return self.row(job)

    def _last(self, job: uuid.UUID) -> tuple[Any, Any]:
        row = self.row(job)
        return row["change_action"], row["status"]

    async def ends(self, job: uuid.UUID) -> dict[str, Any]:
        """Return the job's row once it is in a terminal state."""
        await until(lambda: self.row(job)["completed_at"], within=20.0)
        return self.row(job)


@pytest.fixture
def rows(database_url: str, psql: Any) -> Rows:
    """The test's rows."""
    return Rows(database_url, psql)


def texts_of(count: int, word: str = "record") -> list[str]:
    return [f"{word} number {number}" for number in range(count)]


async def test_every_record_of_the_job_gets_its_vector(running: Running, rows: Rows, fake: FakeOpenAI) -> None:
    """Each its own, whatever order the server answers in, with the model's name; each is paid for once."""
    fake.script(embeddings={"shuffled": True})
    texts, job = texts_of(100), rows.job()
    rows.add(*texts, job=job)
    rows.start(job)

    async with running():
        row = await rows.ends(job)

    assert (row["status"], row["embeddedCount"], row["progress"]) == ("COMPLETED", 100, 100)
    assert row["warnings"] is None
    rows.assert_embedded(*texts)
    assert sorted(fake.embedder.texts()) == sorted(texts)


async def test_requests_keep_within_the_limits(running: Running, rows: Rows, fake: FakeOpenAI) -> None:
    """Texts and estimated tokens per request, and requests in flight; as many of these as are allowed."""
    fake.script(embeddings={"delay_ms": 30, "most_texts": LIMITS.texts})
    texts = [*texts_of(60), *(f"{number} " + "long " * 240 for number in range(20)), "beyond all limits " * 500]
    job = rows.job()
    rows.add(*texts, job=job)
    rows.start(job)

    async with running():
        await rows.ends(job)

    sizes = [sum(len(text.encode()) // 3 + 1 for text in request["input"]) for request in fake.embedder.requests]
    alone = [len(request["input"]) for request, size in zip(fake.embedder.requests, sizes, strict=True) if size > 2_000]
    assert alone == [1]
    assert max(len(request["input"]) for request in fake.embedder.requests) == LIMITS.texts
    assert fake.embedder.max_in_flight == LIMITS.requests
    assert all(
        request["encoding_format"] == "float" and "dimensions" not in request for request in fake.embedder.requests
    )
    rows.assert_embedded(*texts)


async def test_jobs_share_the_requests_that_a_process_may_have_in_flight(
    running: Running, rows: Rows, fake: FakeOpenAI
) -> None:
    """Three jobs at once send no more at once than one."""
    fake.script(embeddings={"delay_ms": 30})
    jobs = [rows.job() for _ in range(3)]
    for number, job in enumerate(jobs):
        rows.add(*texts_of(60, f"of {number},"), job=job)
        rows.start(job)

    async with running():
        for job in jobs:
            await rows.ends(job)

    assert fake.embedder.max_in_flight == LIMITS.requests


async def test_rate_limit_snoozes_the_job_after_what_was_in_flight_is_kept(
    running: Running, rows: Rows, fake: FakeOpenAI
) -> None:
    """No attempt is spent, what was paid for is not paid for again, and the job goes on when it may."""
    fake.script(
        embeddings={
            "delay_ms": 50,
            "faults": [None, {"kind": "status", "status": 429, "retry_after": "0.6", "delay_ms": 5}],
        }
    )
    texts, job = texts_of(100), rows.job()
    rows.add(*texts, job=job)
    rows.start(job)

    async with running():
        snoozed = await rows.moved(job, "snooze")
        asked = len(fake.embedder.requests)
        row = await rows.ends(job)

    assert snoozed["embeddedCount"] == 3 * LIMITS.texts
    assert asked == LIMITS.requests
    assert "asks to wait" in snoozed["change_reason"]
    assert (row["status"], row["retry_count"], row["embeddedCount"]) == ("COMPLETED", 0, 100)
    assert sorted(fake.embedder.texts()) == sorted(texts)


async def test_brief_fault_of_the_server_costs_no_attempt(running: Running, rows: Rows, fake: FakeOpenAI) -> None:
    """A broken answer, a lost connection, a 500: that request alone is sent again."""
    faults = [{"kind": kind} for kind in ("too_few", "disconnect", "ragged", "not_finite", "error_200")]
    fake.script(embeddings={"faults": [{"kind": "status", "status": 500}, *faults]})
    texts, job = texts_of(100), rows.job()
    rows.add(*texts, job=job)
    rows.start(job)

    async with running():
        row = await rows.ends(job)

    assert (row["status"], row["retry_count"]) == ("COMPLETED", 0)
    rows.assert_embedded(*texts)


async def test_lasting_fault_is_the_jobs_retry_and_what_went_well_stays(
    running: Running, rows: Rows, fake: FakeOpenAI
) -> None:
    """After five attempts of a request the run ends; the next one asks for the rest only."""
    fake.script(embeddings={"faults": [None, None, None, *({"kind": "status", "status": 500} for _ in range(60))]})
    texts, job = texts_of(100), rows.job()
    rows.add(*texts, job=job)
    rows.start(job)

    async with running():
        failed = await rows.moved(job, "retry", within=60.0)
        fake.script(embeddings={"faults": []})
        row = await rows.ends(job)

    assert failed["embeddedCount"] == 3 * LIMITS.texts
    assert (row["status"], row["retry_count"]) == ("COMPLETED", 1)
    assert sorted(fake.embedder.texts()) == sorted(texts)


@pytest.mark.parametrize(
    ("traits", "bad", "reason"),
    [
        ({"most_bytes": 200}, "far too long " * 30, "exceeds the model's context"),
        ({"refuses": "forbidden"}, "a forbidden thing", "refused the request (HTTP 400): input is not allowed"),
    ],
)
async def test_refused_text_stands_alone(
    running: Running, rows: Rows, fake: FakeOpenAI, *, traits: dict[str, Any], bad: str, reason: str
) -> None:
    """Its neighbours get their vectors; it stays pending and is listed with the reason; the job completes."""
    fake.script(embeddings=traits)
    good, job = texts_of(40), rows.job()
    rows.add(*good[:20], job=job)
    (refused,) = rows.add(bad, job=job)
    rows.add(*good[20:], job=job)
    rows.start(job)

    async with running():
        row = await rows.ends(job)

    assert (row["status"], row["embeddedCount"], row["retry_count"]) == ("COMPLETED", 40, 0)
    assert row["warnings"]["refused"]["count"] == 1
    (said,) = row["warnings"]["refused"]["first"]
    assert said["record"] == str(refused)
    assert reason in said["reason"]
    assert rows.vectors()[bad] == ([], None)
    rows.assert_embedded(*good)


async def test_refused_text_is_not_asked_again_by_the_next_run(running: Running, rows: Rows, fake: FakeOpenAI) -> None:
    """Taking a request apart spends what a low limit allows: a job that forgot the text would never get past it."""
    bad, good, job = "a forbidden thing, the longest", texts_of(3), rows.job()
    limit = {"kind": "status", "status": 429, "retry_after": "0.6"}
    # All of them, the probe, the half with the bad text, the bad text alone; then its neighbour may not be asked yet.
    fake.script(embeddings={"refuses": "forbidden", "faults": [None, None, None, None, limit]})
    rows.add(bad, *good, job=job)
    rows.start(job)

    async with running(limits=EmbeddingLimits(texts=4, tokens=2_000, requests=1)):
        snoozed = await rows.moved(job, "snooze")
        row = await rows.ends(job)

    refused = snoozed["warnings"]["refused"]
    assert (refused["count"], refused["model"], len(refused["first"])) == (1, "embed-1", 1)
    assert row["warnings"] == snoozed["warnings"]
    assert (row["status"], row["embeddedCount"], row["retry_count"]) == ("COMPLETED", 3, 0)
    assert [sorted(request["input"]) for request in fake.embedder.requests[5:]] == [good]


@pytest.mark.parametrize(("model", "asked"), [("embed-1", ["good"]), ("embed-0", ["a forbidden", "forbidden", "good"])])
async def test_what_another_model_refused_is_asked_of_this_one(
    running: Running, rows: Rows, fake: FakeOpenAI, *, model: str, asked: list[str]
) -> None:
    """What this one refused is not, whether the reason is still kept or, of many, the record alone."""
    fake.script(embeddings={"refuses": "forbidden"})
    job = rows.job()
    first, other, _ = map(str, rows.add("a forbidden", "forbidden", "good", job=job))
    said = {"count": 2, "model": model, "first": [{"record": first, "reason": "no"}], "others": [other]}
    sql = "UPDATE operations.ingest_jobs SET warnings = %s::jsonb WHERE id = %s RETURNING id"
    rows.one(sql, json.dumps({"encoding": "guessed", "refused": said}), job)
    rows.start(job)

    async with running():
        row = await rows.ends(job)

    assert sorted({text for request in fake.embedder.requests for text in request["input"]} - {"text"}) == asked
    refused = row["warnings"]["refused"]
    assert ({one["record"] for one in refused["first"]}, refused["count"]) == ({first, other}, 2)
    assert (refused["model"], row["warnings"]["encoding"]) == ("embed-1", "guessed")


async def test_refused_credentials_fail_the_job_and_blame_no_text(
    running: Running, rows: Rows, fake: FakeOpenAI
) -> None:
    """What is refused whatever the text is the provider's refusal of us."""
    fake.script(embeddings={"faults": [{"kind": "status", "status": 401} for _ in range(200)]})
    job = rows.job()
    rows.add(*texts_of(40), job=job)
    rows.start(job)

    async with running():
        row = await rows.ends(job)

    assert (row["status"], row["warnings"]) == ("FAILED", None)
    assert "refused the credentials" in row["error"]


async def test_other_model_re_embeds_what_is_not_its_own(running: Running, rows: Rows, fake: FakeOpenAI) -> None:
    """A job without a file takes all of its project's records of its type, of earlier files and of none."""
    first, loaded = rows.job(), texts_of(20, "loaded")
    rows.add(*loaded, job=first)
    rows.start(first)
    elsewhere, feedback = rows.make_project(), "a piece of feedback"
    async with running(model="embed-1"):
        await rows.ends(first)
    rows.add("of no file")
    rows.add("of another project", project=elsewhere)
    rows.add(feedback, type_="FEEDBACK")

    again = rows.job(loaded=False)
    rows.start(again)
    async with running(model="embed-2"):
        row = await rows.ends(again)

    assert (row["status"], row["embeddedCount"]) == ("COMPLETED", 21)
    rows.assert_embedded(*loaded, "of no file", model="embed-2")
    assert rows.vectors()["of another project"] == rows.vectors()[feedback] == ([], None)


async def test_same_model_with_vectors_of_another_length_is_embedded_anew(
    running: Running, rows: Rows, fake: FakeOpenAI
) -> None:
    """A server may give other vectors under the same name; the old ones could be compared with none of them."""
    texts, first, again = texts_of(20), rows.job(), rows.job(loaded=False)
    rows.add(*texts, job=first)
    rows.start(first)
    async with running():
        await rows.ends(first)
        fake.script(embeddings={"dimension": 16})

        rows.start(again)
        await rows.ends(again)

    rows.assert_embedded(*texts, dimension=16)


async def test_nothing_to_do_asks_for_one_vector_at_most(running: Running, rows: Rows, fake: FakeOpenAI) -> None:
    """Re-embedding what is embedded costs one word, which tells the length of vectors."""
    texts, first, again = texts_of(20), rows.job(), rows.job(loaded=False)
    rows.add(*texts, job=first)
    rows.start(first)
    async with running():
        await rows.ends(first)
        asked = len(fake.embedder.requests)

        rows.start(again)
        row = await rows.ends(again)

    assert (row["status"], row["embeddedCount"]) == ("COMPLETED", 20)
    assert [request["input"] for request in fake.embedder.requests[asked:]] == [["text"]]


async def test_records_of_a_job_that_still_lives_are_left_to_it(running: Running, rows: Rows, fake: FakeOpenAI) -> None:
    """Two jobs do not pay for the same record: of two without a file the younger waits until the other has ended."""
    living, elder, younger = rows.job(), rows.job(loaded=False), rows.job(loaded=False)
    elsewhere, feedback = rows.job(loaded=False, project=rows.make_project()), rows.job(loaded=False, type_="FEEDBACK")
    rows.add("the living job's", job=living)
    rows.add("nobody's")
    for job in (younger, elsewhere, feedback):
        rows.start(job)

    async with running():
        waiting = await rows.moved(younger, "snooze")
        for job in (elsewhere, feedback):
            await rows.ends(job)
        assert fake.embedder.texts() == []
        rows.start(elder)
        await rows.ends(elder)
        rows.start(younger)
        last = await rows.ends(younger)

    assert waiting["change_reason"] == f"job {elder} is older and embeds the same records"
    assert (last["status"], last["retry_count"], last["embeddedCount"]) == ("COMPLETED", 0, 1)
    assert rows.vectors()["the living job's"] == ([], None)
    rows.assert_embedded("nobody's")
    assert fake.embedder.texts().count("nobody's") == 1


async def test_dimension_that_changes_under_way_leaves_vectors_of_one_length(
    running: Running, rows: Rows, fake: FakeOpenAI
) -> None:
    """What the job wrote before the change is embedded again before it completes."""
    fake.script(embeddings={"delay_ms": 40})
    texts, job = texts_of(300), rows.job()
    rows.add(*texts, job=job)
    rows.start(job)

    async with running():
        await until(lambda: rows.row(job)["embeddedCount"])
        fake.script(embeddings={"dimension": 12, "delay_ms": 0})
        row = await rows.ends(job)

    assert (row["status"], row["embeddedCount"]) == ("COMPLETED", 300)
    rows.assert_embedded(*texts, dimension=12)


async def test_cancel_stops_the_requests_at_once_and_keeps_what_was_kept(
    running: Running, rows: Rows, fake: FakeOpenAI, database: Any
) -> None:
    """After the acknowledgement no request is begun; what was committed stays, counted."""
    fake.script(embeddings={"delay_ms": 100})
    texts, job = texts_of(400), rows.job()
    rows.add(*texts, job=job)
    rows.start(job)

    async with running() as heard:
        await until(lambda: rows.row(job)["embeddedCount"])
        async with database.kernel() as conn:
            assert await cancel(conn, IngestJob, [job], reason="enough") == {job}
        await until(lambda: ("stopped", "vectorization.embed", job) in heard.events)
        asked, kept = len(fake.embedder.requests), rows.row(job)["embeddedCount"]
        await until(lambda: not fake.embedder.in_flight)

    assert rows.row(job)["status"] == "CANCELLED"
    assert len(fake.embedder.requests) == asked < 400 // LIMITS.texts
    assert 0 < kept == sum(model is not None for _, model in rows.vectors().values())


async def test_record_deleted_under_way_is_no_error(running: Running, rows: Rows, fake: FakeOpenAI) -> None:
    """Neither between reading and writing, nor between pages."""
    fake.script(embeddings={"delay_ms": 200})
    texts, job = texts_of(60), rows.job()
    ids = rows.add(*texts, job=job)
    rows.start(job)

    async with running():
        await until(lambda: fake.embedder.in_flight)
        rows.one(
            "WITH gone AS (DELETE FROM operations.data_records WHERE id = ANY (%s) RETURNING 1) SELECT 1", ids[::2]
        )
        row = await rows.ends(job)

    assert (row["status"], row["embeddedCount"]) == ("COMPLETED", 30)
    rows.assert_embedded(*texts[1::2])


async def test_project_deleted_under_way_ends_the_run_without_a_trace(
    running: Running, rows: Rows, fake: FakeOpenAI
) -> None:
    """Its job is gone with it, and the provider is left alone."""
    fake.script(embeddings={"delay_ms": 50})
    job = rows.job()
    rows.add(*texts_of(400), job=job)
    rows.start(job)

    async with running() as heard:
        await until(lambda: fake.embedder.in_flight)
        rows.one("DELETE FROM operations.projects WHERE id = %s RETURNING id", rows.project)
        await until(lambda: ("stopped", "vectorization.embed", job) in heard.events)
        asked = len(fake.embedder.requests)

    assert rows.vectors() == {}
    assert asked == len(fake.embedder.requests) < 400 // LIMITS.texts


async def test_offline_embedder_needs_no_server(database_url: str, stages: Registry, rows: Rows) -> None:
    """Without any provider records get the feature hash's vectors, under its name."""
    llm = build(api_key=None, base_url=None, model=None, connect_timeout=1.0, timeout=1.0, max_connections=1)
    job = rows.job()
    rows.add(*texts_of(150), job=job)
    rows.start(job)

    async with mill(database_url, stages, llm):
        await rows.ends(job)

    assert {(len(vector), model) for vector, model in rows.vectors().values()} == {(384, "offline-hash-v1")}
