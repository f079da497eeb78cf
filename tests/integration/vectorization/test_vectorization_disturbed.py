"""Vectorization with rate limits, refusals, faults, cancels and deleted records: paid vectors are stored."""

import json
from typing import Any

import pytest

from gristmill_testing.waiting import until
from models.operations import IngestJob
from tests.support.fakes.openai_server import FakeOpenAI
from tests.support.fakes.vectorizing import LIMITS, Rows, Running, texts_of
from workers.runtime.handler.ports import EmbeddingLimits
from workers.runtime.store.intervene import cancel


async def test_rate_limit_snoozes_the_job_after_the_requests_in_flight_are_stored(
    running: Running, rows: Rows, fake: FakeOpenAI
) -> None:
    """No attempt is spent, no text is sent again, and the job continues after the pause."""
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
    """A broken answer, a lost connection, a 500: only that request is sent again."""
    faults = [{"kind": kind} for kind in ("too_few", "disconnect", "ragged", "not_finite", "error_200")]
    fake.script(embeddings={"faults": [{"kind": "status", "status": 500}, *faults]})
    texts, job = texts_of(100), rows.job()
    rows.add(*texts, job=job)
    rows.start(job)

    async with running():
        row = await rows.ends(job)

    assert (row["status"], row["retry_count"]) == ("COMPLETED", 0)
    rows.assert_embedded(*texts)


async def test_job_waits_for_a_provider_that_is_away_and_keeps_its_vectors(
    running: Running, rows: Rows, fake: FakeOpenAI
) -> None:
    """After five tries of a request the run ends without spending an attempt. The next run sends only the rest."""
    fake.script(embeddings={"faults": [None, None, None, *({"kind": "status", "status": 500} for _ in range(60))]})
    texts, job = texts_of(100), rows.job()
    rows.add(*texts, job=job)
    rows.start(job)

    async with running():
        snoozed = await rows.moved(job, "snooze", within=60.0)
        fake.script(embeddings={"faults": []})
        row = await rows.ends(job)

    assert snoozed["embeddedCount"] == 3 * LIMITS.texts
    assert "HTTP 500" in snoozed["change_reason"]
    assert (row["status"], row["retry_count"]) == ("COMPLETED", 0)
    assert sorted(fake.embedder.texts()) == sorted(texts)


@pytest.mark.parametrize(
    ("traits", "bad", "reason"),
    [
        ({"most_bytes": 200}, "far too long " * 30, "exceeds the model's context"),
        ({"refuses": "forbidden"}, "a forbidden thing", "refused the request (HTTP 400): input is not allowed"),
    ],
)
async def test_only_the_refused_text_has_no_vector(
    running: Running, rows: Rows, fake: FakeOpenAI, *, traits: dict[str, Any], bad: str, reason: str
) -> None:
    """The other texts get their vectors. The refused text is listed with the reason, and the job completes."""
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


SPOILED = {
    "70000": (70_000.0, "out of half precision"),
    "single precision": (3e38, "out of half precision"),
    "no number": (float("nan"), "not finite"),
    "infinite": (1e39, "not finite"),
    "zeros": (0.0, "zeros only"),
    "tiny": (1e-9, "below half precision"),
}


@pytest.mark.parametrize("kind", SPOILED)
async def test_a_vector_that_no_index_holds_is_one_listed_record(
    running: Running, rows: Rows, fake: FakeOpenAI, kind: str
) -> None:
    """With any fault in one vector, the other texts get theirs, no attempt is spent, and the job completes."""
    number, reason = SPOILED[kind]
    fake.script(embeddings={"spoils": {"spoiled": number}})
    good, job = texts_of(40), rows.job()
    rows.add(*good[:20], job=job)
    (spoiled,) = rows.add("a spoiled text", job=job)
    rows.add(*good[20:], job=job)
    rows.start(job)

    async with running():
        row = await rows.ends(job)

    assert (row["status"], row["embeddedCount"], row["retry_count"]) == ("COMPLETED", 40, 0)
    (said,) = row["warnings"]["refused"]["first"]
    assert said["record"] == str(spoiled)
    assert reason in said["reason"]
    assert rows.vectors()["a spoiled text"] == ([], None)
    rows.assert_embedded(*good)


async def test_if_every_vector_is_broken_no_text_is_listed(running: Running, rows: Rows, fake: FakeOpenAI) -> None:
    """No record is listed. The job's error says what is wrong with the server."""
    fake.script(embeddings={"spoils": {"": 70_000.0}})
    job = rows.job()
    rows.add(*texts_of(5), job=job)
    rows.start(job)

    async with running():
        row = await rows.ends(job)

    assert row["status"] == "FAILED"
    assert "out of half precision" in row["error"]
    assert not (row["warnings"] or {}).get("refused")


async def test_refused_text_is_not_asked_again_by_the_next_run(running: Running, rows: Rows, fake: FakeOpenAI) -> None:
    """Halving a request uses up a low rate limit. A job that forgot the refused text would never finish."""
    bad, good, job = "a forbidden thing, the longest", texts_of(3), rows.job()
    limit = {"kind": "status", "status": 429, "retry_after": "0.6"}
    # All texts, the probe, the half with the bad text, the bad text alone. Then the rate limit stops the next request.
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
async def test_text_that_another_model_refused_is_sent_to_this_one(
    running: Running, rows: Rows, fake: FakeOpenAI, *, model: str, asked: list[str]
) -> None:
    """A text that this model refused is not sent again, whether its reason is stored or only its record."""
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


async def test_job_waits_on_refused_credentials_and_lists_no_text(
    running: Running, rows: Rows, fake: FakeOpenAI
) -> None:
    """The provider refuses every text: people must repair this."""
    fake.script(embeddings={"faults": [{"kind": "status", "status": 401} for _ in range(200)]})
    job = rows.job()
    rows.add(*texts_of(40), job=job)
    rows.start(job)

    async with running():
        await until(lambda: rows.row(job)["change_action"] == "snooze", within=60.0)

    row = rows.row(job)
    assert (row["status"], row["retry_count"], row["warnings"]) == ("QUEUED_FOR_VEC", 0, None)
    assert "refused the credentials" in row["change_reason"]


async def test_dimension_that_changes_under_way_leaves_vectors_of_one_length(
    running: Running, rows: Rows, fake: FakeOpenAI
) -> None:
    """The vectors that the job wrote before the change are made again before it completes."""
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


async def test_cancel_stops_the_requests_at_once_and_keeps_committed_vectors(
    running: Running, rows: Rows, fake: FakeOpenAI, database: Any
) -> None:
    """After the cancel no request begins. Committed vectors stay and are counted."""
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


async def test_record_deleted_meanwhile_is_not_an_error(running: Running, rows: Rows, fake: FakeOpenAI) -> None:
    """Between reading and writing, or between pages."""
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


async def test_project_deleted_meanwhile_ends_the_run_without_a_trace(
    running: Running, rows: Rows, fake: FakeOpenAI
) -> None:
    """Its job is deleted with it, and no request follows."""
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
