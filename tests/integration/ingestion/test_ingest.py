"""Ingestion by the real handler on real Postgres: each row once, each skip explained."""

import csv
import io
import json

import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError

from gristmill_testing.mill import mill
from models.operations import IngestJob, Upload, UploadPart
from tests.support.fakes.ingesting import MESS
from tests.support.paths import SHARED_DATA
from tests.support.proving.llm import NoModel
from workers.ingestion.export import export_records
from workers.ingestion.refusals import Unreadable
from workers.runtime.enqueue import enqueue

DATA = SHARED_DATA


def real_file(name):
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{name} is third-party data that is not part of this repository")
    return path.read_bytes()


async def test_prompts_of_the_real_file_are_saved_once_each(ingest, ingestion):
    """1,476 rows with 1,458 different prompts: each repeat is reported by its line, and no cell changes."""
    content = real_file("prompts_chat.csv")
    rows = list(csv.DictReader(io.StringIO(content.decode("utf-8"), newline="")))

    job = await ingest(content)

    assert (job.status, job.error_message) == ("QUEUED_FOR_VEC", None)
    assert (job.total_records, job.saved_count) == (1476, 1458)
    assert job.skipped_details.keys() == {"duplicate_in_file"}
    assert job.skipped_details["duplicate_in_file"]["count"] == 18
    records = await ingestion.records()
    assert [record.content for record in records] == list(dict.fromkeys(row["prompt"] for row in rows))
    first: dict[str, dict[str, str]] = {}
    for row in rows:
        first.setdefault(row["prompt"], row)
    assert [record.metadata_ for record in records] == list(first.values())
    assert {record.source for record in records} == {"csv:f.csv"}
    assert job.warnings["columns_found"]["content"] == "prompt"


async def test_both_kinds_of_a_real_mixed_file_are_ingested_by_two_jobs_at_once(
    ingestion, database_url, only_ingestion
):
    """4,819 rows with 4,696 different contents: each job gives the reason for every row that it did not save."""
    content = real_file("derived_task_feedback.csv")
    rows = list(csv.DictReader(io.StringIO(content.decode("utf-8"), newline="")))
    kinds = ("TASK", "FEEDBACK")

    enqueued = [await ingestion.enqueue(content, type=kind) for kind in kinds]
    async with mill(database_url, only_ingestion, NoModel()):
        jobs = await ingestion.ended(*(one.id for one in enqueued))

    assert [job.total_records for job in jobs] == [4819, 4819]
    assert [job.skipped_details["other_type"]["count"] for job in jobs] == [2916, 1903]
    duplicates = sum(
        one["count"]
        for job in jobs
        for reason, one in job.skipped_details.items()
        if reason.startswith("duplicate_in_")
    )
    assert (sum(job.saved_count for job in jobs), duplicates) == (4696, 123)
    records = await ingestion.records()
    assert {record.content for record in records} == {row["content"] for row in rows}
    kept = {(record.type, record.category or "", record.content) for record in records}
    assert kept <= {(row["type"], row["category"], row["content"]) for row in rows}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le"])
async def test_mess_is_saved_or_skipped_for_a_reason_with_its_line(ingest, ingestion, encoding):
    """One file with all faults of real exports: no row is lost without a reason, and nothing is invented."""
    job = await ingest(MESS.removeprefix("\ufeff" if encoding != "utf-8" else "").encode(encoding))

    records = {record.metadata_["id"]: record for record in await ingestion.records()}
    assert job.skipped_details == {
        "duplicate_in_file": {"count": 1, "lines": [8]},
        "empty_content": {"count": 1, "lines": [9]},
        "malformed": {"count": 1, "lines": [12]},
    }
    assert (job.total_records, job.saved_count, job.skipped_count) == (10, 7, 3)
    assert records["1"].content == 'two\nlines; "quoted"'
    assert records["1"].metadata_ == {
        "id": "1", "Prompt": 'two\nlines; "quoted"', "Category": "top 10", "Author": "ann", "Prompt_2": "second",
        "column_6": "x",
    }  # fmt: skip
    assert records["2"].content == "=1+1"
    assert records["3"].metadata_ == {"id": "3", "Prompt": "short"}
    assert records["4"].metadata_["column_7"] == "extra"
    assert [records[one].category for one in "12347"] == ["TOP_10", "BOTTOM_10", None, "TOP_10", None]
    assert job.warnings["category_left_empty"] == {"count": 1, "lines": [10]}
    assert job.warnings["rows_cut"] == {"count": 1, "lines": [7]}
    assert [records[one].created_by_id for one in "1234"] == ["ann", "bob", None, "cy"]
    assert records["1"].created_by_name == "ann"
    assert records["8"].content == "nul\N{REPLACEMENT CHARACTER}byte"
    assert job.warnings["replaced_characters"] == 1
    assert job.warnings["columns_found"] == {"content": "Prompt", "category": "Category", "creator": "Author"}


async def test_encoding_of_a_file_from_sql_is_detected_when_it_is_read(ingestion, database_url, only_ingestion):
    """Windows-1252 is the fallback, with a warning."""
    job_id = await ingestion.enqueue_in_sql("was;\u20ac\nsch\xf6n;5\n".encode("cp1252"), {"content": "was"})

    async with mill(database_url, only_ingestion, NoModel()):
        (job,) = await ingestion.ended(job_id)

    assert [record.metadata_ for record in await ingestion.records()] == [{"was": "sch\xf6n", "\u20ac": "5"}]
    assert "cp1252" in job.warnings["encoding"]
    assert await ingestion.count(UploadPart) == 0


@pytest.mark.parametrize(
    ("content", "mapping", "said"),
    [
        (b"", {}, "the file is empty: it has no header"),
        (b"a,b\n1,2\n", {}, "no column looks like content; map one of these columns to it: 'a', 'b'"),
        (b"a,b\n1,2\n", {"content": "c"}, "content is mapped to 'c', which is not a column of the file; its columns: "),
        (b'"a,b\n1,2\n', {}, "the header, line 1 of the file, has a quote that is never closed"),
        (b"a\n", {"contents": "a"}, "mapping has no field 'contents'; its fields: content, category, "),
    ],
)
async def test_invalid_file_is_refused_in_one_line_by_every_door(
    ingestion, database_url, only_ingestion, *, content, mapping, said
):
    """The Python door refuses it before anything is stored. If a door cannot read it, its job fails."""
    job_id = await ingestion.enqueue_in_sql(content, mapping)

    with pytest.raises(Unreadable) as refusal:
        await ingestion.enqueue(content, mapping=mapping)
    async with mill(database_url, only_ingestion, NoModel()):
        (job,) = await ingestion.ended(job_id)

    assert str(refusal.value).startswith(said)
    assert (job.status, job.error_message) == ("FAILED", str(refusal.value))
    assert "\n" not in job.error_message
    assert await ingestion.count(Upload) == 1


async def test_repeated_key_returns_the_first_job_and_keeps_no_second_file(ingestion):
    """A service that is not sure may ask again."""
    first = await ingestion.enqueue("text\na\n", idempotency_key="k")

    again = await ingestion.enqueue("text\na\n", idempotency_key="k")

    assert (first.created, again.created, again.id) == (True, False, first.id)
    assert await ingestion.count(Upload) == 1
    assert await ingestion.count(UploadPart) == 1


async def test_job_without_a_file_goes_on_to_be_embedded(ingestion, database, database_url, only_ingestion):
    """Nothing is loaded. A job that lost its file fails and says so."""
    payload = {"project_id": str(ingestion.project_id), "type": "TASK"}
    async with database.session() as session:
        alone = await enqueue(session, "ingestion.ingest", payload)
    robbed = await ingestion.enqueue("text\na\n")
    async with database.session() as session:
        await session.execute(update(IngestJob).where(IngestJob.id == robbed.id).values(upload_id=None))

    async with mill(database_url, only_ingestion, NoModel()):
        done, failed = await ingestion.ended(alone.id, robbed.id)

    assert (done.status, done.total_records) == ("QUEUED_FOR_VEC", 0)
    assert (failed.status, failed.error_message) == ("FAILED", "the uploaded file no longer exists: hand it in again")


@pytest.mark.parametrize("source", [None, "exports of May"])
async def test_job_that_lost_its_upload_fails_whatever_its_source(
    ingestion, database, database_url, only_ingestion, source
):
    """The source of a job with an upload begins with a kind, so the job never completes without its file."""
    await ingestion.enqueue("text\na\n")
    payload = {"project_id": str(ingestion.project_id), "type": "TASK", "source": source}
    async with database.session() as session:
        upload_id = (await session.scalars(select(Upload.id))).one()
        job = await enqueue(session, "ingestion.ingest", {**payload, "upload_id": str(upload_id)})
    async with database.session() as session:
        await session.execute(update(IngestJob).values(upload_id=None))  # as its expiry does

    async with mill(database_url, only_ingestion, NoModel()):
        (failed,) = await ingestion.ended(job.id)

    assert failed.source == f"csv:{source or upload_id}"
    assert (failed.status, failed.error_message) == ("FAILED", "the uploaded file no longer exists: hand it in again")


async def test_job_of_an_upload_without_a_source_is_refused_by_the_table(ingestion, database):
    """No door can leave the source out."""
    job = await ingestion.enqueue("text\na\n")

    with pytest.raises(IntegrityError, match="ck_ingest_jobs_source"):
        async with database.session() as session:
            await session.execute(update(IngestJob).where(IngestJob.id == job.id).values(source=None))


async def test_export_has_the_ingested_contents_and_no_formula(ingest, ingestion, database):
    """In the order of the file. A spreadsheet that opens it computes nothing."""
    await ingest('text,author\n=1+1,-ann\n"a\nb",\n+2,\n"@c",\n"\td",\n')

    out = io.StringIO(newline="")
    async with database.session() as session:
        count = await export_records(session, ingestion.project_id, out)
    rows = list(csv.DictReader(io.StringIO(out.getvalue(), newline="")))

    assert count == 5
    assert [row["content"] for row in rows] == ["'=1+1", "a\nb", "'+2", "'@c", "'\td"]
    assert rows[0]["created_by_name"] == "'-ann"
    assert json.loads(rows[0]["metadata"]) == {"text": "=1+1", "author": "-ann"}
