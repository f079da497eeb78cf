"""Files: stored once and whole, refused early, bounded; nothing is received from a caller without a key."""

import gzip
import hashlib

import pytest

from gateway.routes import ingest
from tests.support.route_table import CSV, PDF


@pytest.fixture
def path(world) -> str:
    return f"/v1/projects/{world.names['project']}"


async def send(client, path: str, header, content: bytes = CSV, name: str = "tasks.csv", **fields: str):
    form = {"type": "task", "mapping": '{"content": "prompt"}'} | fields
    return await client.post(f"{path}/ingest", data=form, files={"file": (name, content)}, headers=header)


async def test_a_file_is_stored_with_what_was_measured(client, world, psql, path):
    """In parts of a mebibyte; the encoding is that of the whole file, not of its beginning."""
    content = b"prompt\n" + b"".join(b"row %d\n" % n for n in range(250_000)) + "caf\xe9\n".encode("cp1252")
    assert len(content) > 2 * 1024 * 1024

    answer = await send(client, path, await world.key("alice", "operations"), content, "d\u00e9j\u00e0.csv")

    assert answer.status_code == 201, answer.text
    job = psql.execute("SELECT * FROM operations.ingest_jobs WHERE id = %s", [answer.json()["id"]]).fetchone()
    upload = psql.execute("SELECT * FROM operations.uploads WHERE id = %s", [job["uploadId"]]).fetchone()
    parts = psql.execute(
        'SELECT content FROM operations.upload_parts WHERE "uploadId" = %s ORDER BY "partNumber"', [upload["id"]]
    ).fetchall()
    assert b"".join(bytes(part["content"]) for part in parts) == content
    assert (upload["sizeBytes"], bytes(upload["sha256"])) == (len(content), hashlib.sha256(content).digest())
    assert (upload["encoding"], upload["lineCount"], upload["fileName"]) == ("cp1252", 250_002, "d\u00e9j\u00e0.csv")
    assert (job["source"], job["owner_id"]) == ("csv:d\u00e9j\u00e0.csv", world.users["alice"])


async def test_a_repeated_key_stores_no_second_file(client, world, psql, path):
    """The first job is returned; another file under the key is refused."""
    header = await world.key("alice", "operations")

    first = await send(client, path, header, idempotency_key="k")
    again = await send(client, path, header | {"Idempotency-Key": "k"})
    other = await send(client, path, header, CSV + b"third,top_10\n", idempotency_key="k")

    assert (first.status_code, again.status_code, other.status_code) == (201, 200, 422)
    assert first.json()["id"] == again.json()["id"]
    assert psql.execute("SELECT count(*) AS n FROM operations.uploads").fetchone() == {"n": 1}


@pytest.mark.parametrize(
    ("content", "name", "fields", "word"),
    [
        (PDF, "tasks.csv", {}, "PDF"),
        (b"", "tasks.csv", {}, "empty"),
        (b"\x89PNG\r\n\x1a\n", "tasks.csv", {}, "PNG"),
        (CSV, "tasks.csv", {"mapping": '{"content": "prompts"}'}, "prompts"),
        (CSV, "tasks.csv", {"mapping": "["}, "mapping"),
        (CSV, "tasks.csv", {"mapping": '{"content": 7}'}, "mapping"),
        (CSV, "tasks.csv", {"encoding": "klingon"}, "encoding"),
        (CSV, "tasks.csv", {"skip_rows": "-1"}, "skip_rows"),
        (CSV, "tasks.csv", {"type": "song"}, "type"),
        (CSV, "tasks.csv", {"color": "red"}, "color"),
        (gzip.compress(gzip.compress(CSV, mtime=0), mtime=0), "tasks.csv.gz", {}, "gzip"),
    ],
)
async def test_a_file_that_cannot_be_read_is_refused_at_once(client, world, psql, *, path, content, name, fields, word):
    """With the field or the reason; nothing is stored."""
    answer = await send(client, path, await world.key("alice", "operations"), content, name, **fields)

    assert answer.status_code == 422, answer.text
    assert word in answer.json()["detail"]
    assert psql.execute("SELECT count(*) AS n FROM operations.uploads").fetchone() == {"n": 0}


async def test_a_bomb_is_stored_and_not_unpacked(client, world, path):
    """A gigabyte of blanks in a megabyte: the door unpacks only the beginning."""
    bomb = gzip.compress(CSV) + gzip.compress(b" " * 64 * 1024 * 1024) * 16

    answer = await send(client, path, await world.key("alice", "operations"), bomb, "tasks.csv.gz")

    assert answer.status_code == 201, answer.text


async def test_a_request_that_is_no_form_is_refused(client, world, path):
    """A JSON body, a form without a file, two files."""
    header = await world.key("alice", "operations")

    no_form = await client.post(f"{path}/ingest", json={"type": "task"}, headers=header)
    no_file = await client.post(f"{path}/ingest", files={"type": (None, "task")}, headers=header)
    files = [("file", ("a.csv", CSV)), ("file", ("b.csv", CSV)), ("type", (None, "task"))]
    two = await client.post(f"{path}/ingest", files=files, headers=header)

    assert (no_form.status_code, no_file.status_code, two.status_code) == (415, 422, 400)
    assert no_file.json()["errors"][0]["field"] == "file"


async def test_nothing_is_received_without_a_key_or_a_project(client, world, path):
    """The body of a caller who may not send it is never read."""
    read = 0

    async def body():
        nonlocal read
        for _ in range(10):
            read += 1
            yield b"x" * 65_536

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    bob = await world.key("bob", "operations")
    answers = [
        await client.post(f"{path}/ingest", content=body(), headers=headers),
        await client.post(f"{path}/ingest", content=body(), headers=headers | bob),
        await client.put(f"{path}/guidelines", content=body(), headers={"Content-Type": "application/pdf"} | bob),
    ]

    assert [answer.status_code for answer in answers] == [401, 403, 403]
    assert read == 0


async def test_a_file_that_is_too_large_is_refused(client, world, path):
    """By the length that it says, before it is received."""
    header = await world.key("alice", "operations") | {"Content-Type": "multipart/form-data; boundary=b"}

    answer = await client.post(
        f"{path}/ingest", content=b"x", headers=header | {"Content-Length": str(ingest.MAX_FILE_BYTES * 2)}
    )

    assert answer.status_code == 413


async def test_guidelines_come_back_as_they_were_given(client, world, path):
    """With the name; what is no PDF is refused; an unreadable one is stored with a warning."""
    header = await world.key("alice", "operations")
    pdf = PDF + "é".encode()

    stored = await client.put(
        f"{path}/guidelines",
        params={"file_name": "r\u00e8gles.pdf"},
        content=pdf,
        headers=header | {"Content-Type": "application/pdf"},
    )
    back = await client.get(f"{path}/guidelines", headers=header)
    no_pdf = await client.put(f"{path}/guidelines", content=b"x", headers=header | {"Content-Type": "application/pdf"})
    no_type = await client.put(f"{path}/guidelines", content=pdf, headers=header | {"Content-Type": "text/plain"})

    assert (stored.status_code, no_pdf.status_code, no_type.status_code) == (200, 422, 415)
    assert stored.json()["size_bytes"] == len(pdf)
    assert "no analysis can read them" in stored.json()["warning"]
    assert (back.content, back.headers["content-type"]) == (pdf, "application/pdf")
    assert "r%C3%A8gles.pdf" in back.headers["content-disposition"]
