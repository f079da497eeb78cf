"""Which records are embedded, by which requests, and the values of their rows afterwards."""

from gristmill_testing.mill import mill
from tests.support.fakes.openai_server import FakeOpenAI
from tests.support.fakes.vectorizing import LIMITS, Rows, Running, texts_of
from workers.llm.provider import build
from workers.runtime.handler.registry import Registry


async def test_every_record_of_the_job_gets_its_vector(running: Running, rows: Rows, fake: FakeOpenAI) -> None:
    """Each record gets its own vector and the model's name, in any order of the answers. Each is sent once."""
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
    """Texts and estimated tokens per request, and requests in flight, which reach their limit."""
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
    """Three jobs together have no more requests in flight than one."""
    fake.script(embeddings={"delay_ms": 30})
    jobs = [rows.job() for _ in range(3)]
    for number, job in enumerate(jobs):
        rows.add(*texts_of(60, f"of {number},"), job=job)
        rows.start(job)

    async with running():
        for job in jobs:
            await rows.ends(job)

    assert fake.embedder.max_in_flight == LIMITS.requests


async def test_other_model_re_embeds_what_is_not_its_own(running: Running, rows: Rows, fake: FakeOpenAI) -> None:
    """A job without a file takes all records of its project and type, from earlier files or from none."""
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


async def test_same_model_with_vectors_of_another_length_is_embedded_again(
    running: Running, rows: Rows, fake: FakeOpenAI
) -> None:
    """A server may return other vectors under the same name. The old ones cannot be compared with them."""
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
    """If every record has a vector, the job sends one word, to find the length of the vectors."""
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


async def test_records_of_an_unfinished_job_are_left_to_it(running: Running, rows: Rows, fake: FakeOpenAI) -> None:
    """Two jobs do not embed the same record: of two jobs without a file, the newer one waits for the other."""
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


async def test_offline_embedder_needs_no_server(database_url: str, stages: Registry, rows: Rows) -> None:
    """Without a provider, records get feature hash vectors and its model name."""
    llm = build(api_key=None, base_url=None, model=None, connect_timeout=1.0, timeout=1.0, max_connections=1)
    job = rows.job()
    rows.add(*texts_of(150), job=job)
    rows.start(job)

    async with mill(database_url, stages, llm):
        await rows.ends(job)

    assert {(len(vector), model) for vector, model in rows.vectors().values()} == {(384, "offline-hash-v1")}
