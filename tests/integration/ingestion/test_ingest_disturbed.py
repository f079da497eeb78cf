"""Ingestion that is cancelled, runs twice at once, loses its project, dies at any chunk or has no time left."""

from contextlib import suppress
from datetime import timedelta

import pytest
from sqlalchemy import delete

from gristmill_testing.mill import mill
from gristmill_testing.waiting import until
from models.operations import DataRecord, IngestJob, Project, Upload, UploadPart
from tests.support.fakes.ingesting import MESS, PowerCutError, surroundings
from tests.support.proving.llm import NoModel
from workers.ingestion import chunks
from workers.ingestion.ingest_csv import ingest_csv
from workers.runtime.handler.outcomes import Complete, Snooze
from workers.runtime.store.intervene import cancel


def many(count, *, start=0, of="row"):
    return "text,n\n" + "".join(f"{of} {n},{n}\n" for n in range(start, start + count))


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 200 records, so that a small file has many."""
    monkeypatch.setattr(chunks, "CHUNK_RECORDS", 200)


async def saved_some(ingestion, job_id):
    async def has_saved():
        return (await ingestion.job(job_id)).saved_count > 0

    await until(has_saved)


async def test_cancelled_job_keeps_what_it_saved_and_counts_it(
    ingestion, database, database_url, only_ingestion, small_chunks
):
    """It stops within a chunk, and every saved record is counted."""
    enqueued = await ingestion.enqueue(many(40_000))

    async with mill(database_url, only_ingestion, NoModel()) as heard:
        await saved_some(ingestion, enqueued.id)
        async with database.kernel() as conn:
            await cancel(conn, IngestJob, [enqueued.id], reason="enough")
        saved = (await ingestion.job(enqueued.id)).saved_count
        await until(lambda: ("stopped", "ingestion.ingest", enqueued.id) in heard.events)

    job = await ingestion.job(enqueued.id)
    assert job.status == "CANCELLED"
    assert 0 < job.saved_count == saved < 40_000
    assert await ingestion.count(DataRecord) == saved


async def test_project_deleted_meanwhile_leaves_nothing_and_crashes_nothing(
    ingestion, database, database_url, only_ingestion, *, small_chunks, capsys
):
    """The deletion succeeds during any part of a run. The run ends, and no record remains."""
    enqueued = await ingestion.enqueue(many(40_000))

    async with mill(database_url, only_ingestion, NoModel()) as heard:
        await saved_some(ingestion, enqueued.id)
        async with database.session() as session:
            await session.execute(delete(Project))
        # Stopped or stale; or done, if the deletion had to wait for that.
        await until(lambda: {event for event, _, _ in heard.events} - {"started"})
        assert await ingestion.job_if_any(enqueued.id) is None

    assert [await ingestion.count(model) for model in (DataRecord, Upload, UploadPart)] == [0, 0, 0]
    said = "".join(capsys.readouterr())
    assert "run_lost" not in said
    assert "Traceback" not in said


async def test_two_jobs_with_the_same_contents_save_each_once(ingestion, database_url, only_ingestion, small_chunks):
    """In opposite orders and at the same time: no deadlock, and neither fails."""
    lines = many(10_000).splitlines(keepends=True)
    backwards = "".join([lines[0], *reversed(lines[1:])])
    enqueued = [await ingestion.enqueue(content) for content in ("".join(lines), backwards)]

    async with mill(database_url, only_ingestion, NoModel()):
        jobs = await ingestion.ended(*(one.id for one in enqueued))

    assert [job.status for job in jobs] == ["QUEUED_FOR_VEC"] * 2
    assert [job.retry_count for job in jobs] == [0, 0]
    assert [job.total_records for job in jobs] == [10_000, 10_000]
    assert sum(job.saved_count for job in jobs) == 10_000
    assert {reason for job in jobs for reason in job.skipped_details} <= {"duplicate_in_project"}
    assert await ingestion.count(DataRecord) == 10_000


async def test_run_that_dies_at_any_chunk_is_continued_to_the_same_end(ingest, ingestion, database, jobs, monkeypatch):
    """Each run dies right after one commit. The rows and counts are those of an undisturbed run."""
    monkeypatch.setattr(chunks, "CHUNK_RECORDS", 3)
    content = MESS + "11;two;\n" * 5 + '12;"a\n\nb";\n' + "".join(f"{n};row {n % 7};\n" for n in range(13, 60))
    whole = await ingest(content)
    expected = [(record.content, record.metadata_, record.created_by_id) for record in await ingestion.records()]
    async with database.session() as session:
        await session.execute(delete(DataRecord))
    await ingestion.enqueue(content)
    (claimed,) = await jobs.running("ingestion.ingest", 0)

    runs = 0
    while True:
        job, runs = await ingestion.job(claimed.id), runs + 1
        try:
            assert await ingest_csv(job, surroundings(database, job, commits=1)) == Complete()
            break
        except PowerCutError:
            pass

    assert runs > 20
    found = [(record.content, record.metadata_, record.created_by_id) for record in await ingestion.records()]
    assert found == expected
    for name in ("total_records", "saved_count", "skipped_count", "skipped_details", "warnings", "resume_at"):
        assert getattr(job, name) == getattr(whole, name), name


async def test_file_with_only_a_header_is_reported_once_over_all_runs(ingestion, database, jobs):
    """A run that dies after its first commit does not make the warning count twice."""
    await ingestion.enqueue("text,n\n")
    (claimed,) = await jobs.running("ingestion.ingest", 0)
    runs, ended = 0, None

    while ended is None:
        job, runs = await ingestion.job(claimed.id), runs + 1
        with suppress(PowerCutError):
            ended = await ingest_csv(job, surroundings(database, job, commits=1))

    job = await ingestion.job(claimed.id)
    assert (ended, runs) == (Complete(), 3)
    assert (job.total_records, job.warnings["no_records"]) == (0, {"count": 1, "lines": [1]})


async def test_run_with_little_time_left_leaves_the_rest_to_the_next(ingestion, database, jobs, monkeypatch):
    """Five minutes before its deadline it ends after a chunk and spends no attempt."""
    monkeypatch.setattr(chunks, "CHUNK_RECORDS", 3)
    await ingestion.enqueue("text\n" + "".join(f"row {n}\n" for n in range(10)))
    (claimed,) = await jobs.running("ingestion.ingest", 0)
    times = iter([claimed.started_at, claimed.deadline_at - timedelta(minutes=5)])

    first = await ingest_csv(claimed, surroundings(database, claimed, commits=9, clock=lambda: next(times)))
    job = await ingestion.job(claimed.id)
    second = await ingest_csv(job, surroundings(database, job, commits=99))

    assert first == Snooze(timedelta(), "its time is nearly up: another run continues")
    assert job.saved_count == 3
    assert second == Complete()
    assert (await ingestion.job(claimed.id)).saved_count == 10


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ('UPDATE operations.uploads SET "sizeBytes" = 5', "the upload must have 5 bytes (its sizeBytes), got"),
        ("UPDATE operations.uploads SET sha256 = sha256('other')", "must have the sha256 of its row, got another"),
        ('UPDATE operations.upload_parts SET "partNumber" = 3', "must have its parts numbered from 0 on, got 1 up to"),
    ],
)
async def test_a_file_that_is_not_what_its_row_says_fails_in_one_line(
    ingestion, database_url, only_ingestion, *, psql, change, said
):
    """A row written in SQL may be wrong: the message names what is missing or different."""
    enqueued = await ingestion.enqueue("text\na\n")
    psql.execute("SET session_replication_role = replica")  # as if it had been written so
    psql.execute(change.encode())

    async with mill(database_url, only_ingestion, NoModel()):
        (job,) = await ingestion.ended(enqueued.id)

    assert job.status == "FAILED"
    assert said in (job.error_message or "")
