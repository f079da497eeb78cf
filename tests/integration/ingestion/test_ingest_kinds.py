"""Files of every kind through the real handler: every row accounted for, and a run that dies is gone on with."""

import json
from contextlib import suppress

import pytest
from sqlalchemy import select

from gristmill_testing.mill import mill
from models.operations import DataRecord, Upload, UploadPart
from tests.support.fakes.files import gzipped, json_lines, workbook
from tests.support.fakes.ingesting import PowerCutError, surroundings
from tests.support.paths import CASES
from tests.support.proving.llm import NoModel
from workers.ingestion import chunks
from workers.ingestion.ingest_csv import ingest_csv
from workers.ingestion.refusals import Unreadable
from workers.runtime.handler.outcomes import Complete

COUNT = 1_000
ROWS = [{"text": f"row {n % 900}" if n % 100 else "", "n": n, "by": {"name": "ann"}} for n in range(COUNT)]
EMPTY = [n for n in range(COUNT) if n % 100 == 0]
FILES = {
    "f.json": json.dumps({"made": "today", "rows": ROWS}).encode(),
    "f.jsonl": json_lines(ROWS),
    "f.csv": b"text,n\n" + b"".join(f"{row['text']},{row['n']}\n".encode() for row in ROWS),
    "f.xlsx": workbook([["text", "n"], *[[str(row["text"]) or None, int(str(row["n"]))] for row in ROWS]]),
}
FILES |= {f"{name}.gz": gzipped(content) for name, content in FILES.items()}
FIRST_ROW = {"f.json": 1, "f.jsonl": 1, "f.csv": 2, "f.xlsx": 2}


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 300 records, so that a small file has several."""
    monkeypatch.setattr(chunks, "CHUNK_RECORDS", 300)


def accounted(job, name):
    """Assert that the job's counts are those of ``ROWS``, with the row numbers of this kind of file."""
    first = FIRST_ROW[name.removesuffix(".gz")]
    assert (job.total_records, job.saved_count, job.skipped_count) == (1_000, 891, 109)
    assert job.skipped_details["empty_content"] == {"count": 10, "lines": [n + first for n in EMPTY]}
    assert job.skipped_details["duplicate_in_file"]["count"] == 99
    assert job.skipped_details["duplicate_in_file"]["lines"][0] == 901 + first


@pytest.mark.parametrize("name", FILES)
async def test_every_row_of_a_file_of_every_kind_is_counted(ingest, ingestion, small_chunks, name):
    """With the Python door. The source of the records begins with the kind."""
    job = await ingest(FILES[name], file_name=name)

    accounted(job, name)
    kind = name.removesuffix(".gz").removeprefix("f.")
    records = await ingestion.records()
    assert job.source == f"{kind}:{name}"
    assert {record.source for record in records} == {job.source}
    assert [record.content for record in records] == [f"row {n}" for n in range(900) if n % 100]
    assert records[0].metadata_ == (ROWS[1] if kind.startswith("json") else {"text": "row 1", "n": "1"})
    assert await ingestion.count(UploadPart) == 0


@pytest.mark.parametrize("name", FILES)
async def test_sql_door_takes_every_kind(ingestion, database_url, only_ingestion, small_chunks, name):
    """It stores bytes; the worker detects the kind."""
    job_id = await ingestion.enqueue_in_sql(FILES[name], {})

    async with mill(database_url, only_ingestion, NoModel()):
        (job,) = await ingestion.ended(job_id)

    accounted(job, name)
    kind = name.removesuffix(".gz").removeprefix("f.")
    assert {record.source for record in await ingestion.records()} == {f"{kind}:f.csv"}


@pytest.mark.parametrize("name", FILES)
async def test_run_that_dies_at_any_commit_is_continued_to_the_same_end(
    ingestion, database, jobs, *, small_chunks, name
):
    """Each run has one commit: no record is saved twice, none is missing, every count is the same."""
    await ingestion.enqueue(FILES[name], file_name=name)
    (claimed,) = await jobs.running("ingestion.ingest", 0)
    runs, ended = 0, None

    while ended is None:
        job, runs = await ingestion.job(claimed.id), runs + 1
        with suppress(PowerCutError):
            ended = await ingest_csv(job, surroundings(database, job, commits=1))

    assert ended == Complete()
    assert runs > 4
    accounted(await ingestion.job(claimed.id), name)
    assert await ingestion.count(DataRecord) == 891


async def test_file_with_an_unreadable_end_fails_its_job_in_one_line(ingestion, database_url, only_ingestion):
    """A gzip that is cut short, a file that is not a workbook: nothing is saved."""
    cut = await ingestion.enqueue_in_sql(FILES["f.csv.gz"][:-20], {})
    none = await ingestion.enqueue_in_sql((CASES / "workbook_named.csv").read_bytes(), {})

    async with mill(database_url, only_ingestion, NoModel()):
        jobs = await ingestion.ended(cut, none)

    assert [job.status for job in jobs] == ["FAILED", "FAILED"]
    assert [job.error_message for job in jobs] == [
        "the gzip file is cut short: its end is missing",
        "this is a zip or an Excel file, and it is damaged or incomplete: save it again as .xlsx or CSV",
    ]
    assert await ingestion.count(DataRecord) == 0


async def test_door_refuses_other_files_before_anything_is_stored(ingestion):
    """Also if only the end of a short file shows it."""
    for content in (b"%PDF-1.4", (CASES / "workbook_named.csv").read_bytes(), FILES["f.jsonl.gz"][:-9]):
        with pytest.raises(Unreadable):
            await ingestion.enqueue(content)

    assert await ingestion.count(Upload) == 0


async def test_options_of_a_file_reach_the_run(ingest, ingestion):
    """They are in the job's options, which every worker reads."""
    content = "# made by hand\nтекст;кто\nнапиши стих;анна\n".encode("cp1251")
    options = {"encoding": "cp1251", "delimiter": "semicolon", "skip_rows": 1}

    job = await ingest(content, options=options, mapping={"content": "{текст} ({кто})"})

    assert [record.content for record in await ingestion.records()] == ["напиши стих (анна)"]
    assert (job.options, job.warnings["read_as"]["encoding"]) == (options, "cp1251")


async def test_only_the_damaged_and_the_nested_item_are_lost(ingest, ingestion, database):
    """Values that Postgres or a reader cannot read are counted or kept as text. The rows can be read back."""
    bad = '{"text": "deep", "a": ' + "[" * 5_000 + "]" * 5_000 + "}"
    numbers = '{"text": "numbers", "a": 1e5000, "b": ' + "9" * 5_000 + ', "c": NaN}'
    halves = r'{"text": "half \ud83d", "a": "\u0000"}'

    job = await ingest(f'[{bad}, {numbers}, {halves}, {{"text": "fine"}}, {{"text": oops}}]', file_name="f.json")

    assert (job.saved_count, job.skipped_details) == (3, {"malformed": {"count": 2, "lines": [1, 5]}})
    assert job.warnings["replaced_characters"] == 2
    async with database.session() as session:
        kept = (await session.scalars(select(DataRecord.metadata_).order_by(DataRecord.id))).all()
    assert kept[0] == {"text": "numbers", "a": "1e5000", "b": "9" * 5_000, "c": "NaN"}
