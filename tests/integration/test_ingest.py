"""Ingestion by the real handler on real Postgres: each row once, each skip explained, whatever happens meanwhile."""

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import delete, func, select, text, update
from sqlalchemy.exc import IntegrityError

from models.operations import DataRecord, IngestJob, Project, Upload, UploadPart
from tests.fakes.mill import mill
from tests.proving.llm import NoModel
from tests.waiting import until
from workers.ingestion import chunks
from workers.ingestion.enqueue_file import ingest_file
from workers.ingestion.export import export
from workers.ingestion.ingest_csv import ingest_csv
from workers.ingestion.refusals import Unreadable
from workers.runtime.context import Context, Run
from workers.runtime.enqueue import enqueue
from workers.runtime.outcomes import Complete, Snooze
from workers.runtime.registry import Registry
from workers.runtime.store.checkpoint import checkpoint
from workers.runtime.store.intervene import cancel

DATA = Path(__file__).parents[3] / "shared" / "data"
ENDED = {"QUEUED_FOR_VEC", "FAILED", "CANCELLED"}


def real_file(name):
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{name} is third-party data that is not part of this repository")
    return path.read_bytes()


async def stream(content, size=70_000):
    for at in range(0, len(content), size):
        yield content[at : at + size]


@pytest.fixture
def only_ingestion(registry):
    """The one stage that is tested here: what follows it is others' business."""
    only = Registry()
    only.add(registry["ingestion.ingest"])
    return only


@pytest.fixture
async def project(database):
    """A project to ingest into."""
    async with database.session() as session:
        session.add(made := Project(name="p"))
    return made.id


class Ingestion:
    """Enqueues files and looks at what became of them."""

    def __init__(self, database, project_id):
        self.database = database
        self.project_id = project_id

    async def enqueue(self, content, **options):
        content = content.encode() if isinstance(content, str) else content
        options = {"type": "TASK", "file_name": "f.csv", "project_id": self.project_id, **options}
        async with self.database.session() as session:
            return await ingest_file(session, stream=stream(content), **options)

    async def job(self, job_id):
        async with self.database.session() as session:
            return await session.get(IngestJob, job_id)

    async def ended(self, *job_ids):
        async def all_ended():
            return ENDED.issuperset([(await self.job(job_id)).status for job_id in job_ids])

        await until(all_ended, within=60)
        return [await self.job(job_id) for job_id in job_ids]

    async def records(self, **where):
        query = select(DataRecord).filter_by(**where).order_by(DataRecord.id)
        async with self.database.session() as session:
            return (await session.scalars(query)).all()

    async def enqueue_in_sql(self, file, mapping):
        call = "SELECT operations.enqueue_ingest(:project, 'TASK', :csv, 'f.csv', CAST(:mapping AS jsonb))"
        values = {"project": self.project_id, "csv": file, "mapping": json.dumps(mapping)}
        async with self.database.session() as session:
            return (await session.execute(text(call), values)).scalar_one()

    async def count(self, model):
        async with self.database.session() as session:
            return await session.scalar(select(func.count()).select_from(model))


@pytest.fixture
def ingestion(database, project):
    return Ingestion(database, project)


@pytest.fixture
async def ingest(ingestion, database_url, only_ingestion):
    """Ingest one file and return its job at its end."""

    async def run(content, **options):
        enqueued = await ingestion.enqueue(content, **options)
        async with mill(database_url, only_ingestion, NoModel()):
            (job,) = await ingestion.ended(enqueued.id)
        return job

    return run


async def test_prompts_of_the_real_file_are_saved_once_each(ingest, ingestion):
    """1,476 rows with 1,458 different prompts: each repeat is told by its line, and no cell is changed."""
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
    """4,819 rows with 4,696 different contents: each job tells of every line why it did not save it."""
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


MESS = (
    "\ufeffid;Prompt;Category;Author;Prompt;\r\n"
    '1;"two\nlines; ""quoted""";top 10;ann;second;x\r\n'
    "2;=1+1;Bottom10;bob;;y\r\n"
    "\r\n"
    "3;short\r\n"
    "4;long;TOP_10;cy;;z;extra;more\r\n"
    "5;=1+1;;bob\r\n"
    "6;   ;;\r\n"
    "7;fine;excellent;\r\n"
    "8;nul\x00byte;;\r\n"
    '9;"never closed;;\r\n'
    "10;last;; \r\n"
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le"])
async def test_mess_is_saved_or_skipped_for_a_reason_with_its_line(ingest, ingestion, encoding):
    """Everything that real exports get wrong in one file: nothing is lost without a word, and nothing is invented."""
    job = await ingest(MESS.removeprefix("\ufeff" if encoding != "utf-8" else "").encode(encoding))

    records = {record.metadata_["id"]: record for record in await ingestion.records()}
    assert job.skipped_details == {
        "duplicate_in_file": {"count": 1, "lines": [8]},
        "empty_content": {"count": 1, "lines": [9]},
        "invalid_category": {"count": 1, "lines": [10]},
        "malformed": {"count": 1, "lines": [12]},
    }
    assert (job.total_records, job.saved_count, job.skipped_count) == (10, 6, 4)
    assert records["1"].content == 'two\nlines; "quoted"'
    assert records["1"].metadata_ == {
        "id": "1", "Prompt": 'two\nlines; "quoted"', "Category": "top 10", "Author": "ann", "Prompt_2": "second",
        "column_6": "x",
    }  # fmt: skip
    assert records["2"].content == "=1+1"
    assert records["3"].metadata_ == {"id": "3", "Prompt": "short"}
    assert records["4"].metadata_["column_7"] == "extra"
    assert [records[one].category for one in "1234"] == ["TOP_10", "BOTTOM_10", None, "TOP_10"]
    assert [records[one].created_by_id for one in "1234"] == ["ann", "bob", None, "cy"]
    assert records["1"].created_by_name == "ann"
    assert records["8"].content == "nul\N{REPLACEMENT CHARACTER}byte"
    assert job.warnings["replaced_characters"] == 1
    assert job.warnings["columns_found"] == {"content": "Prompt", "category": "Category", "creator": "Author"}


async def test_file_of_the_sql_door_tells_its_encoding_when_it_is_read(ingestion, database_url, only_ingestion):
    """Windows-1252 is a guess, and said to be one."""
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
        (b"a,b\n1,2\n", {}, "no column looks like content; map one of the file's columns to it: 'a', 'b'"),
        (b"a,b\n1,2\n", {"content": "c"}, "content is mapped to 'c', which is no column of the file; its columns: "),
        (b'"a,b\n1,2\n', {}, "the header, line 1 of the file, has a quote that is never closed"),
        (b"a\n", {"contents": "a"}, "mapping has no field 'contents'; its fields: content, category, "),
    ],
)
async def test_file_that_cannot_be_meant_is_refused_in_one_line_by_every_door(
    ingestion, database_url, only_ingestion, *, content, mapping, said
):
    """By the Python door before anything is kept, by the job where a door could not look."""
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
    """Nothing is to be loaded; but a job whose file is gone says so."""
    payload = {"project_id": str(ingestion.project_id), "type": "TASK"}
    async with database.session() as session:
        alone = await enqueue(session, "ingestion.ingest", payload)
    robbed = await ingestion.enqueue("text\na\n")
    async with database.session() as session:
        await session.execute(update(IngestJob).where(IngestJob.id == robbed.id).values(upload_id=None))

    async with mill(database_url, only_ingestion, NoModel()):
        done, failed = await ingestion.ended(alone.id, robbed.id)

    assert (done.status, done.total_records) == ("QUEUED_FOR_VEC", 0)
    assert (failed.status, failed.error_message) == ("FAILED", "the uploaded file is gone: hand it in again")


@pytest.mark.parametrize("source", [None, "exports of May"])
async def test_job_of_an_upload_misses_it_whatever_its_source(
    ingestion, database, database_url, only_ingestion, source
):
    """A request that names an upload tells of a file by its source, so that it never completes with nothing."""
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
    assert (failed.status, failed.error_message) == ("FAILED", "the uploaded file is gone: hand it in again")


async def test_job_of_an_upload_without_a_source_is_refused_by_the_table(ingestion, database):
    """Whoever writes the row: no door can leave it out."""
    job = await ingestion.enqueue("text\na\n")

    with pytest.raises(IntegrityError, match="ck_ingest_jobs_source"):
        async with database.session() as session:
            await session.execute(update(IngestJob).where(IngestJob.id == job.id).values(source=None))


async def test_export_keeps_what_was_ingested_and_disarms_formulas(ingest, ingestion, database):
    """In the order of the file; a spreadsheet that opens it computes nothing."""
    await ingest('text,author\n=1+1,-ann\n"a\nb",\n+2,\n"@c",\n"\td",\n')

    out = io.StringIO(newline="")
    async with database.session() as session:
        count = await export(session, ingestion.project_id, out)
    rows = list(csv.DictReader(io.StringIO(out.getvalue(), newline="")))

    assert count == 5
    assert [row["content"] for row in rows] == ["'=1+1", "a\nb", "'+2", "'@c", "'\td"]
    assert rows[0]["created_by_name"] == "'-ann"
    assert json.loads(rows[0]["metadata"]) == {"text": "=1+1", "author": "-ann"}


# ── what happens meanwhile ───────────────────────────────────────────────────────────────────────────────────────────


def many(count, *, start=0, of="row"):
    return "text,n\n" + "".join(f"{of} {n},{n}\n" for n in range(start, start + count))


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 200 records: a file of a test has many."""
    monkeypatch.setattr(chunks, "CHUNK_RECORDS", 200)


async def saved_some(ingestion, job_id):
    async def has_saved():
        return (await ingestion.job(job_id)).saved_count > 0

    await until(has_saved)


async def test_cancelled_job_keeps_what_it_saved_and_counts_it(
    ingestion, database, database_url, only_ingestion, small_chunks
):
    """Within a chunk it stops; no record is there that is not counted."""
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


async def test_project_deleted_meanwhile_leaves_nothing_and_nobody_crashes(
    ingestion, database, database_url, only_ingestion, *, small_chunks, capsys
):
    """The delete goes through, whatever the run holds; the run ends, and no record outlives its project."""
    enqueued = await ingestion.enqueue(many(40_000))

    async with mill(database_url, only_ingestion, NoModel()) as heard:
        await saved_some(ingestion, enqueued.id)
        async with database.session() as session:
            await session.execute(delete(Project))
        await until(lambda: {event for event, _, _ in heard.events} & {"stopped", "stale"})
        assert await ingestion.job(enqueued.id) is None

    assert [await ingestion.count(model) for model in (DataRecord, Upload, UploadPart)] == [0, 0, 0]
    said = "".join(capsys.readouterr())
    assert "run_lost" not in said
    assert "Traceback" not in said


async def test_two_jobs_with_the_same_contents_save_each_once(ingestion, database_url, only_ingestion, small_chunks):
    """In opposite orders and at the same time: neither waits for the other in a circle, and neither fails."""
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


def _unasked(*_):
    raise AssertionError("ingestion asks for neither")


class PowerCutError(Exception):
    """The worker's process is gone."""


def now():
    return datetime.now(UTC)


def surroundings(database, job, *, commits, clock=now):
    """Return the context of a run that ends with its process right after so many commits."""
    left = commits

    async def keep(values, write=None):
        nonlocal left
        async with database.session() as session:
            assert await checkpoint(session, IngestJob, (job.id, job.version), values)
            if write and (found := await write(session)):
                await checkpoint(session, IngestJob, (job.id, job.version), found)
        left -= 1
        if not left:
            raise PowerCutError

    return Context(
        run=Run("ingestion.ingest", job.id, job.version, 1),
        llm=NoModel(),
        session=database.session,
        progress=_unasked,
        checkpoint=keep,
        clock=clock,
    )


async def test_run_that_dies_at_any_chunk_is_continued_to_the_same_end(ingest, ingestion, database, jobs, monkeypatch):
    """One run per commit, each of which dies right after it: the rows and counts are those of an undisturbed run."""
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


async def test_run_whose_time_is_nearly_up_leaves_the_rest_to_the_next(ingestion, database, jobs, monkeypatch):
    """Five minutes before its deadline it ends after a chunk, no attempt spent: a long file needs no long deadline."""
    monkeypatch.setattr(chunks, "CHUNK_RECORDS", 3)
    await ingestion.enqueue("text\n" + "".join(f"row {n}\n" for n in range(10)))
    (claimed,) = await jobs.running("ingestion.ingest", 0)
    times = iter([claimed.started_at, claimed.deadline_at - timedelta(minutes=5)])

    first = await ingest_csv(claimed, surroundings(database, claimed, commits=9, clock=lambda: next(times)))
    job = await ingestion.job(claimed.id)
    second = await ingest_csv(job, surroundings(database, job, commits=99))

    assert first == Snooze(timedelta(), "its time is nearly up: another run goes on")
    assert job.saved_count == 3
    assert second == Complete()
    assert (await ingestion.job(claimed.id)).saved_count == 10
