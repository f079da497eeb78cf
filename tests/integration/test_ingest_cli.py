"""``gristmill ingest`` as a person and as a script use it, beside a mill that does the work."""

import asyncio
import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from threading import Event, Thread

import pytest

from cli.ingesting import hand_in
from tests.fakes.mill import asking_mill
from workers.ingestion.layout import HEAD_BYTES
from workers.operations.projects import get_or_create
from workers.runtime.enqueue import EnqueueError
from workers.runtime.registry import Registry

FILE = 'Prompt;Category;by\n"two\nlines";top 10;ann\n=1+1;;bob\n=1+1;;bob\n;;\nx;odd;\n'


@pytest.fixture(autouse=True)
def file(tmp_path) -> None:
    """The file that is handed in, in the working folder."""
    (tmp_path / "tasks.csv").write_text(FILE, encoding="utf-8")


@pytest.fixture
def at_work(database_url, registry) -> Iterator[None]:
    """A mill in a thread of its own that ingests, and embeds without any provider."""
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


def test_waiting_tells_of_every_row_what_became_of_it(gristmill, at_work):
    """The id first, what is skipped by reason and line at the end; what happens meanwhile goes to standard error."""
    code, output, said = gristmill("ingest", "tasks.csv", "--project", "p", "--type", "task", "--wait")

    assert code == 0, said
    assert output.splitlines()[1:] == [
        "completed: 5 read, 2 saved, 3 skipped, 2 embedded",
        "  skipped as duplicate_in_file: 1 (line 5)",
        "  skipped as empty_content: 1 (line 6)",
        "  skipped as invalid_category: 1 (line 7)",
        "  columns found: content = 'Prompt', category = 'Category'",
    ]
    assert said.splitlines()[-1] == "completed: 100 %, 5 read, 2 saved, 3 skipped, 2 embedded"


def test_waiting_for_json_prints_one_document(gristmill, at_work):
    """For scripts: the job as it ended."""
    code, output, _ = gristmill(
        "ingest", "tasks.csv", "--project", "p", "--type", "FEEDBACK", "--map", "category=", "--wait", "--json"
    )

    job = json.loads(output)["job"]
    assert code == 0
    assert (job["status"], job["total"], job["saved"], job["embedded"]) == ("COMPLETED", 5, 3, 3)


def test_job_that_fails_ends_the_command_with_1_and_its_line(gristmill, at_work, tmp_path):
    """The door saw the file's beginning only; what is behind made it another file."""
    (tmp_path / "late.csv").write_bytes("é\n".encode() + b"some row\n" * 150_000 + b"\xff\n")

    code, output, _ = gristmill(
        "ingest", "late.csv", "--project", "p", "--type", "task", "--map", "content=é", "--wait"
    )

    assert code == 1
    assert output.splitlines()[-1] == "  content is mapped to 'é', which is no column of the file; its columns: 'Ã©'"


def test_repeated_key_prints_the_first_job(gristmill, psql):
    """Without waiting, the id and nothing else; in JSON, whether it is new and where it goes."""
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
        (["tasks.csv", "--map", "content"], "--map must be FIELD=COLUMN, such as content=prompt, got 'content'"),
        (["tasks.csv", "--map", "type=a", "--map", "type=b"], "--map names 'type' twice"),
        (
            ["tasks.csv", "--map", "contents=Prompt"],
            "tasks.csv: mapping has no field 'contents'; its fields: content, ",
        ),
        (["tasks.csv", "--map", "content=text"], "tasks.csv: content is mapped to 'text', which is no column of the "),
        (["odd.csv"], "odd.csv: no column looks like content"),
        (["tasks.csv", "--type", "prompt"], "--type must be task or feedback, got 'prompt'"),
    ],
)
def test_what_cannot_be_meant_is_one_line_and_leaves_nothing(gristmill, psql, tmp_path, arguments, said):
    """Exit code 2, no project, no file, no job."""
    (tmp_path / "odd.csv").write_text("a;b\n1;2\n", encoding="utf-8")

    code, output, complaint = gristmill("ingest", "--project", "p", "--type", "task", *arguments)

    assert (code, output) == (2, "")
    assert complaint.startswith(f"gristmill: {said}")
    assert "\n" not in complaint
    assert psql.execute("SELECT FROM operations.projects").rowcount == 0


async def test_second_file_of_a_new_project_does_not_wait_for_the_first(database, psql, tmp_path):
    """The first is still on its way; what comes of it, the project is there for both."""
    slow, sent = tmp_path / "slow.csv", 0
    os.mkfifo(slow)
    end = os.open(slow, os.O_RDWR | os.O_NONBLOCK)
    first = asyncio.create_task(hand_in(database, slow, project="p", mapping={}, type="TASK"))
    give_up = time.monotonic() + 20
    while sent < 4 * HEAD_BYTES and not first.done() and time.monotonic() < give_up:
        with suppress(BlockingIOError):
            sent += os.write(end, b"prompt\n" + b"some row\n" * 4_000)
        await asyncio.sleep(0.001)

    try:
        other = tmp_path / "tasks.csv"
        second = await asyncio.wait_for(hand_in(database, other, project="p", mapping={}, type="TASK"), 5)
        assert not first.done()
    finally:
        os.close(end)  # which ends the first file, too

    assert (await first).project_id == second.project_id
    assert psql.execute("SELECT FROM operations.ingest_jobs").rowcount == 2


@pytest.mark.parametrize("options", [{"idempotency_key": "k" * 256}, {"priority": 11}])
async def test_file_that_is_refused_late_leaves_no_new_project_and_every_old_one(database, psql, tmp_path, options):
    """What only the job can be refused for is known when the file has been kept."""
    async with database.session() as session:
        old = (await get_or_create(session, "old")).id

    for project in ("new", "old", str(old)):
        with pytest.raises(EnqueueError):
            await hand_in(database, tmp_path / "tasks.csv", project=project, mapping={}, type="TASK", **options)

    assert psql.execute("SELECT name FROM operations.projects").fetchall() == [{"name": "old"}]


async def test_key_of_another_projects_job_is_refused_and_makes_no_project(database, psql, tmp_path):
    """Two at once, even: whichever comes first has the key, and the others are told what differs."""
    file = tmp_path / "tasks.csv"

    done = await asyncio.gather(
        *(hand_in(database, file, project=f"p{n}", mapping={}, type="TASK", idempotency_key="k") for n in range(4)),
        return_exceptions=True,
    )

    [first] = [one for one in done if not isinstance(one, BaseException)]
    refusals = {str(one) for one in done if isinstance(one, EnqueueError)}
    assert refusals == {"idempotency_key is taken by a job with another project_id, got 'k'"}
    assert psql.execute("SELECT name FROM operations.projects").fetchall() == [{"name": first.project}]
