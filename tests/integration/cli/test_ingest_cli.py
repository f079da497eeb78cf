"""``gristmill ingest`` as a person and as a script use it, with a worker in the same process."""

import asyncio
import gzip
import io
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from threading import Event, Thread

import pytest

from cli.file_upload import upload_file
from tests.support.fakes.mill import asking_mill
from workers.ingestion.unwrapping import HEAD_BYTES
from workers.operations.projects import get_or_create
from workers.runtime.enqueue import EnqueueError
from workers.runtime.handler.registry import Registry

FILE = 'Prompt;Category;by\n"two\nlines";top 10;ann\n=1+1;;bob\n=1+1;;bob\n;;\nx;odd;\n'


@pytest.fixture(autouse=True)
def file(tmp_path) -> None:
    """The file to ingest, in the working folder."""
    (tmp_path / "tasks.csv").write_text(FILE, encoding="utf-8")


@pytest.fixture
def at_work(database_url, registry) -> Iterator[None]:
    """A worker in its own thread that ingests, and embeds without a provider."""
    stages = Registry()
    for name in ("ingestion.ingest", "vectorization.embed"):
        stages.add(registry[name])
    begun, enough = Event(), Event()

    async def work() -> None:
        async with asking_mill(database_url, stages, provider_url=None):
            begun.set()
            await asyncio.to_thread(enough.wait)

    thread = Thread(target=lambda: asyncio.run(work()))
    thread.start()
    assert begun.wait(30)
    yield
    enough.set()
    thread.join(30)


def test_wait_shows_the_saved_and_the_skipped_rows(gristmill, at_work):
    """The id is first, the skipped rows by reason and line are last. Progress goes to standard error."""
    code, output, said = gristmill("ingest", "tasks.csv", "--project", "p", "--type", "task", "--wait")

    assert code == 0, said
    assert output.splitlines()[1:] == [
        "completed: 5 read, 3 saved, 2 skipped, 3 embedded",
        "  skipped as duplicate_in_file: 1 (line 5)",
        "  skipped as empty_content: 1 (line 6)",
        "  1 row has an unknown category; it is left empty, and kept in metadata (line 7)",
        "  columns found: content = 'Prompt', category = 'Category'",
        "  read as CSV, delimiter ';', quote '\"', encoding 'utf-8'",
    ]
    assert said.splitlines()[-1] == "completed: 100 %, 5 read, 3 saved, 2 skipped, 3 embedded"


def test_waiting_for_json_prints_one_document(gristmill, at_work):
    """A script gets the job after its end."""
    code, output, _ = gristmill(
        "ingest", "tasks.csv", "--project", "p", "--type", "FEEDBACK", "--map", "category=", "--wait", "--json"
    )

    job = json.loads(output)["job"]
    assert code == 0
    assert (job["status"], job["total"], job["saved"], job["embedded"]) == ("COMPLETED", 5, 3, 3)


def test_job_that_fails_ends_the_command_with_1_and_its_line(gristmill, at_work, tmp_path):
    """The command checked only the beginning of the file; the rest shows that it is another encoding."""
    (tmp_path / "late.csv").write_bytes("é\n".encode() + b"some row\n" * 150_000 + b"\xff\n" * 9)

    code, output, _ = gristmill(
        "ingest", "late.csv", "--project", "p", "--type", "task", "--map", "content=é", "--wait"
    )

    assert code == 1
    assert output.splitlines()[-1] == "  content is mapped to 'é', which is not a column of the file; its columns: 'Ã©'"


RESUMES = "ID,Text,Category\n" + "".join(f"{n},resume {n},{('HR', 'CHEF')[n % 2]}\n" for n in range(50))


def test_summary_begins_with_what_is_wrong(gristmill, at_work, tmp_path):
    """A given mapping makes the job skip most rows. Without it no row is skipped, and the reason is shown."""
    (tmp_path / "cv.csv").write_text(RESUMES)
    arguments = ("ingest", "cv.csv", "--project", "p", "--type", "task", "--wait")

    _, strictly, _ = gristmill(*arguments, "--map", "category=Category")
    code, freely, _ = gristmill(*arguments)

    assert strictly.splitlines()[1:3] == [
        "WARNING: 50 of 50 rows were skipped: invalid_category 50",
        "completed: 50 read, 0 saved, 50 skipped, 0 embedded",
    ]
    assert code == 0
    assert freely.splitlines()[1] == "completed: 50 read, 50 saved, 0 skipped, 50 embedded"
    assert "category: 'Category', because its values, such as 'HR', are not categories" in freely


def test_strict_refuses_a_file_that_would_lose_rows_before_anything_is_saved(gristmill, psql, tmp_path):
    """Exit code 1 and the reason; no project and no job are made."""
    (tmp_path / "cv.csv").write_text(RESUMES)
    (tmp_path / "cut.csv").write_text("id,content\n1,write a poem, please\n2,b\n")
    arguments = ("--project", "p", "--type", "task", "--strict")

    skipped = gristmill("ingest", "cv.csv", *arguments, "--map", "category=Category")
    cut = gristmill("ingest", "cut.csv", *arguments)

    assert skipped == (
        1,
        "",
        "gristmill: cv.csv: 50 of 50 rows were skipped: invalid_category 50; nothing was saved, because of --strict",
    )
    assert (cut[0], cut[1]) == (1, "")
    assert "cut.csv: 1 row has more cells than the header, so its content may be cut at a comma (line 2)" in cut[2]
    assert psql.execute("SELECT FROM operations.projects").rowcount == 0


def test_file_with_only_a_header_is_accepted_and_strict_refuses_it(gristmill, at_work, psql, tmp_path):
    """Both say that it has 0 records; the refusal saves nothing."""
    (tmp_path / "header.csv").write_text("id,content\n")
    arguments = ("ingest", "header.csv", "--project", "p", "--type", "task")

    refused = gristmill(*arguments, "--strict")
    jobs = psql.execute("SELECT FROM operations.ingest_jobs").rowcount
    dry_run = gristmill(*arguments, "--strict", "--dry-run")
    code, output, _ = gristmill(*arguments, "--wait")

    problem = "the file has 0 records: it has only a header"
    assert refused == (1, "", f"gristmill: header.csv: {problem}; nothing was saved, because of --strict")
    assert jobs == 0
    assert (dry_run[0], dry_run[2]) == (1, f"--strict: {problem}")
    assert code == 0
    assert output.splitlines()[1:3] == [
        f"WARNING: {problem}",
        "completed: 0 read, 0 saved, 0 skipped, 0 embedded",
    ]


def test_strict_fails_if_the_project_has_most_rows_already(gristmill, at_work, tmp_path):
    """The file itself is correct. The command shows what was saved and why it fails."""
    arguments = ("ingest", "tasks.csv", "--project", "p", "--type", "task", "--strict")
    assert gristmill(*arguments)[0] == 0

    code, output, complaint = gristmill(*arguments)

    assert code == 1
    assert output.splitlines()[1] == "WARNING: 5 of 5 rows were skipped: duplicate_in_project 4, empty_content 1"
    assert complaint.splitlines()[-1] == "--strict: 5 of 5 rows were skipped: duplicate_in_project 4, empty_content 1"


def test_dry_run_shows_how_a_file_would_be_read_and_saves_nothing(gristmill, psql):
    """Mapping, encoding, delimiter, quote, the first rows, what would be skipped."""
    arguments = ("ingest", "tasks.csv", "--project", "p", "--type", "task", "--dry-run")

    code, output, complaint = gristmill(*arguments)
    told = json.loads(gristmill(*arguments, "--json")[1])

    assert (code, complaint) == (0, "")
    assert output.splitlines() == [
        "tasks.csv: CSV, delimiter ';', quote '\"', encoding 'utf-8'",
        "columns: 'Prompt', 'Category', 'by'",
        "mapping: content = 'Prompt' (found by its name), category = 'Category' (found by its name)",
        "first rows:",
        "  2: two lines [TOP_10]",
        "  4: =1+1",
        "  7: x",
        "would be saved: 3 of 5 rows, 2 skipped (without a check for records that the project already has)",
        "  skipped as duplicate_in_file: 1 (line 5)",
        "  skipped as empty_content: 1 (line 6)",
        "  1 row has an unknown category; it is left empty, and kept in metadata (line 7)",
        "nothing was saved: this was a dry run",
    ]
    assert (told["would_save"], told["problems"], told["columns"]) == (3, [], ["Prompt", "Category", "by"])
    assert psql.execute("SELECT FROM operations.projects").rowcount == 0
    assert psql.execute("SELECT FROM operations.uploads").rowcount == 0


def test_dry_run_needs_no_server(gristmill, monkeypatch):
    """It reads only the file. With --strict the exit code has the result."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")

    assert gristmill("ingest", "tasks.csv", "--project", "p", "--type", "task", "--dry-run", "--strict")[0] == 0
    code, _, complaint = gristmill(
        "ingest", "tasks.csv", "--project", "p", "--type", "task", "--dry-run", "--strict", "--map", "category=by"
    )
    assert (code, complaint) == (1, "--strict: 4 of 5 rows were skipped: invalid_category 3, empty_content 1")


def test_standard_input_is_a_file_too(gristmill, psql, monkeypatch):
    """It may be of any kind, also compressed. A dry run reads it twice."""
    content = gzip.compress(b'{"a": "one", "b": "x"}\n{"a": "two", "b": "y"}\n')
    arguments = ("ingest", "-", "--project", "p", "--type", "task", "--map", "content={a}: {b}")

    def handed_over(*options):
        reading, writing = os.pipe()
        os.write(writing, content)
        os.close(writing)
        with io.TextIOWrapper(os.fdopen(reading, "rb")) as standard_input:
            monkeypatch.setattr(sys, "stdin", standard_input)
            return gristmill(*arguments, *options)

    _, output, _ = handed_over("--dry-run")
    code, _, _ = handed_over()

    assert "  1: one: x" in output
    assert code == 0
    [job] = psql.execute("SELECT source, mapping, options FROM operations.ingest_jobs").fetchall()
    assert job == {"source": "jsonl:stdin", "mapping": {"content": "{a}: {b}"}, "options": {}}


def test_the_options_for_reading_are_stored_with_the_job(gristmill, psql, tmp_path):
    """The worker needs them."""
    (tmp_path / "ru.csv").write_bytes("-\nтекст|n\n'a|b'|1\n".encode("cp1251"))

    code, _, complaint = gristmill(
        *("ingest", "ru.csv", "--project", "p", "--type", "task", "--map", "content=текст", "--encoding", "cp1251"),
        *("--delimiter", "pipe", "--quote", "'", "--skip-rows", "1"),
    )

    assert code == 0, complaint
    [job] = psql.execute("SELECT options FROM operations.ingest_jobs").fetchall()
    assert job["options"] == {"encoding": "cp1251", "delimiter": "pipe", "quote": "'", "skip_rows": 1}


def test_repeated_key_prints_the_first_job(gristmill, psql):
    """Without --wait only the id is printed. JSON says whether the job is new, and has its project."""
    arguments = ("ingest", "tasks.csv", "--project", "p", "--type", "task", "--key", "k", "--priority", "2")

    _, first, _ = gristmill(*arguments)
    code, again, _ = gristmill(*arguments, "--json")

    told = json.loads(again)
    assert code == 0
    assert (told["id"], told["created"], told["project"]) == (first.strip(), False, "p")
    [job] = psql.execute("SELECT priority, source, mapping FROM operations.ingest_jobs").fetchall()
    assert job == {"priority": 2, "source": "csv:tasks.csv", "mapping": {}}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none.csv"], "file 'none.csv' cannot be read: No such file or directory"),
        (["."], "file '.' cannot be read: Is a directory"),
        (["tasks.csv", "--map", "content"], "--map must be FIELD=COLUMN, for example content=prompt, got 'content'"),
        (["tasks.csv", "--map", "type=a", "--map", "type=b"], "--map names 'type' twice"),
        (
            ["tasks.csv", "--map", "contents=Prompt"],
            "tasks.csv: mapping has no field 'contents'; its fields: content, ",
        ),
        (["tasks.csv", "--map", "content=text"], "tasks.csv: content is mapped to 'text', which is not a column of "),
        (["odd.csv"], "odd.csv: no column looks like content"),
        (
            ["tasks.csv", "--encoding", "klingon"],
            "--encoding must be one that Python knows, such as utf-8, cp1251",
        ),
        (
            ["tasks.csv", "--delimiter", "ab"],
            "--delimiter must be one character, or comma, semicolon, tab",
        ),
        (
            ["tasks.csv", "--map", "content={Prompt}{no}"],
            "tasks.csv: content is mapped to '{Prompt}{no}', but 'no' ",
        ),
        (["book.pdf"], "book.pdf: this is no table: it is a PDF; hand in CSV, JSON, JSON Lines or Excel (.xlsx), or"),
        (["tasks.csv", "--type", "prompt"], "--type must be task or feedback, got 'prompt'"),
    ],
)
def test_wrong_usage_is_one_line_and_leaves_nothing(gristmill, psql, tmp_path, arguments, said):
    """Exit code 2; no project, no file and no job are stored."""
    (tmp_path / "odd.csv").write_text("a;b\n1;2\n", encoding="utf-8")
    (tmp_path / "book.pdf").write_bytes(b"%PDF-1.7\n")

    code, output, complaint = gristmill("ingest", "--project", "p", "--type", "task", *arguments)

    assert (code, output) == (2, "")
    assert complaint.startswith(f"gristmill: {said}")
    assert "\n" not in complaint
    assert psql.execute("SELECT FROM operations.projects").rowcount == 0


async def test_second_file_of_a_new_project_does_not_wait_for_the_first(database, psql, tmp_path):
    """The first upload still runs. Whatever its result is, both files have the project."""
    slow, sent = tmp_path / "slow.csv", 0
    os.mkfifo(slow)
    end = os.open(slow, os.O_RDWR | os.O_NONBLOCK)
    first = asyncio.create_task(upload_file(database, slow, project="p", mapping={}, type="TASK"))
    give_up = time.monotonic() + 20
    while sent < 4 * HEAD_BYTES and not first.done() and time.monotonic() < give_up:
        with suppress(BlockingIOError):
            sent += os.write(end, b"prompt\n" + b"some row\n" * 4_000)
        await asyncio.sleep(0.001)

    try:
        other = tmp_path / "tasks.csv"
        second = await asyncio.wait_for(upload_file(database, other, project="p", mapping={}, type="TASK"), 5)
        assert not first.done()
    finally:
        os.close(end)  # which ends the first file, too

    assert (await first).project_id == second.project_id
    assert psql.execute("SELECT FROM operations.ingest_jobs").rowcount == 2


@pytest.mark.parametrize("options", [{"idempotency_key": "k" * 256}, {"priority": 11}])
async def test_file_that_is_refused_late_leaves_no_new_project_and_every_old_one(database, psql, tmp_path, options):
    """Some rules are checked only after the file is stored."""
    async with database.session() as session:
        old = (await get_or_create(session, "old")).id

    for project in ("new", "old", str(old)):
        with pytest.raises(EnqueueError):
            await upload_file(database, tmp_path / "tasks.csv", project=project, mapping={}, type="TASK", **options)

    assert psql.execute("SELECT name FROM operations.projects").fetchall() == [{"name": "old"}]


async def test_key_of_another_projects_job_is_refused_and_makes_no_project(database, psql, tmp_path):
    """Also at the same time: the first call gets the key, and the others learn what differs."""
    file = tmp_path / "tasks.csv"

    done = await asyncio.gather(
        *(upload_file(database, file, project=f"p{n}", mapping={}, type="TASK", idempotency_key="k") for n in range(4)),
        return_exceptions=True,
    )

    [first] = [one for one in done if not isinstance(one, BaseException)]
    refusals = {str(one) for one in done if isinstance(one, EnqueueError)}
    assert refusals == {"idempotency_key is taken by a job with another project_id, got 'k'"}
    assert psql.execute("SELECT name FROM operations.projects").fetchall() == [{"name": first.project}]
