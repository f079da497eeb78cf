"""Messages that the Celery door refused are kept with the reason, repeats are counted, a replay reports each result."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import psycopg
import pytest

from gristmill_testing.waiting import until
from tests.support.command_line import Gristmill, as_json
from workers.runtime.database import Database
from workers.runtime.enqueue import EnqueueError
from workers.runtime.operate.requests import DOOR, MAX_MESSAGE_BYTES, read_request
from workers.runtime.worker.dead_letters import CUT_BYTES, MAX_KEPT_MESSAGES, DeadLetter, DeadLetters


def letter(
    *arguments: Any, reason: str = "refused", message_id: str | None = None, task: str = DOOR, **keywords: Any
) -> DeadLetter:
    """Return a message like a service sends it to the door."""
    body = json.dumps([arguments, keywords, {}]).encode()
    return DeadLetter(reason, body, task, message_id or str(uuid.uuid4()), "gristmill", "application/json", "utf-8")


@pytest.fixture
def letters(database: Database) -> DeadLetters:
    return DeadLetters(database)


def kept(psql: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = psql.execute("SELECT * FROM runtime.dead_messages ORDER BY id").fetchall()
    return rows


async def test_a_message_is_kept_with_what_it_brought_before_it_is_let_go(letters, psql):
    """The row has its arguments, its bytes, its names and the whole reason with the quoted value."""
    one = letter("proving.plain", {"key": "é"}, reason="priority must be a valid integer, got 'high'", priority="high")

    await letters.keep(one)

    [row] = kept(psql)
    assert (row["task"], row["queue"], row["message_id"]) == (DOOR, "gristmill", one.message_id)
    assert json.loads(row["arguments"]) == ["proving.plain", {"key": "é"}]
    assert json.loads(row["keywords"]) == {"priority": "high"}
    assert row["reason"] == "priority must be a valid integer, got 'high'"
    assert (bytes(row["body"]), row["size"], row["count"]) == (one.body, len(one.body), 1)


@pytest.mark.parametrize(
    "body",
    [b"", b"\xff\x00 no json", b"\x80\x04.", b"[" * 100_000, b"null", b'"\\ud800"', b'[["\\u0000"], {}]', b"9" * 9_000],
)
async def test_whatever_its_bytes_are_they_are_kept(letters, psql, body):
    """Random bytes, a NUL, half a character, endless numbers and brackets are kept; also in the names."""
    await letters.keep(DeadLetter("no \x00 JSON \ud800", body, "task\x00", "id\ud800", None, "x" * 999, None))

    [row] = kept(psql)
    assert bytes(row["body"]) == body
    assert row["size"] == len(body)


async def test_a_flood_of_one_job_is_one_row_with_a_count(letters, psql):
    """A hundred thousand messages with one key cost one row and a few statements; the id of the first is kept."""
    for number in range(100_000):
        await letters.keep(letter("proving.typo", {}, message_id=str(number), idempotency_key="one"))
    await letters.flush()

    [row] = kept(psql)
    assert (row["count"], row["message_id"]) == (100_000, "0")
    [size] = psql.execute("SELECT pg_total_relation_size('runtime.dead_messages') AS bytes").fetchall()
    assert size["bytes"] < 1_000_000


async def test_two_processes_count_the_same_content_together(database, psql):
    """The first process writes the row; no count is lost."""
    one, other = DeadLetters(database), DeadLetters(database)
    for _ in range(5):
        await asyncio.gather(one.keep(letter("x", {}, message_id="m")), other.keep(letter("x", {}, message_id="m")))
    await asyncio.gather(one.flush(), other.flush())

    assert [row["count"] for row in kept(psql)] == [10]


async def test_messages_that_come_in_the_same_moment_are_all_counted(letters, psql):
    """Messages with the same content come while the first is being written, and right after."""
    for _ in range(3):
        await asyncio.gather(*(letters.keep(letter("x", {}, message_id="m")) for _ in range(20)))
    await letters.flush()

    assert [row["count"] for row in kept(psql)] == [60]


async def test_a_process_remembers_so_many_contents_and_loses_no_count(database, psql):
    """A forgotten message is found in the table again."""
    letters = DeadLetters(database, max_remembered=3)

    for _ in range(4):
        for number in range(6):
            await letters.keep(letter("x", {"n": number}, message_id=str(number)))
    await letters.flush()

    assert [row["count"] for row in kept(psql)] == [4] * 6
    assert len(letters._known) <= 4


async def test_a_flood_of_different_contents_keeps_its_reasons_and_their_number(letters, psql):
    """If the table is full, further messages are counted by their reason, without their body."""
    psql.execute(
        "INSERT INTO runtime.dead_messages (fingerprint, reason, size) "
        "SELECT sha256(n::text::bytea), 'old', 0 FROM generate_series(1, %s) AS n",
        [MAX_KEPT_MESSAGES],
    )

    for number in range(500):
        await letters.keep(letter("proving.typo", {"n": number}, reason=f"stage is not registered, got {number}"))
    await letters.flush()

    new = [row for row in kept(psql) if row["reason"] != "old"]
    assert [(row["reason"], row["count"], bytes(row["body"])) for row in new] == [("stage is not registered", 500, b"")]


async def test_a_flood_of_messages_keeps_so_many_of_them(database, psql):
    """Beyond the limits of messages and bytes, only reasons are counted."""
    letters = DeadLetters(database, max_messages=20, max_bytes=5_000)
    for number in range(50):
        await letters.keep(letter("x", {"n": 1}, message_id=str(number)))
    await DeadLetters(database, max_bytes=5_000).keep(letter("x", {"text": "a" * 6_000}, reason="too many bytes"))
    await letters.flush()

    rows = kept(psql)
    assert sum(row["size"] > 0 for row in rows) == 20
    assert {row["reason"]: row["count"] for row in rows if not row["size"]} == {"refused": 30, "too many bytes": 1}


@pytest.mark.parametrize("size", [70_000, MAX_MESSAGE_BYTES - 500])
async def test_a_large_message_is_kept_whole_and_replayed(letters, gristmill, psql, size):
    """A message up to the door's limit is kept; if its payload is too large for the stage, that is the reason."""
    await letters.keep(letter("proving.plain", {"key": "k"}, padding="x" * size))

    [row] = kept(psql)
    assert len(row["body"]) == row["size"] > size
    [listed] = await asyncio.to_thread(dead, gristmill)
    assert len(listed["keywords"]) <= 8_000


async def test_a_message_larger_than_the_door_takes_keeps_its_beginning(letters, psql):
    """It cannot be replayed; the reason names its size."""
    await letters.keep(letter("proving.plain", {"key": "x" * MAX_MESSAGE_BYTES}))

    [row] = kept(psql)
    assert (len(row["body"]), row["size"] > MAX_MESSAGE_BYTES) == (CUT_BYTES, True)


async def test_messages_of_one_content_are_shown_as_one_and_replayed_each(letters, gristmill, psql):
    """Each message is a job of its own: replay one by its id, or all of them by the id in the list."""
    for number in range(3):
        await letters.keep(letter("proving.plain", {"key": "good"}, message_id=f"m{number}"))
    await letters.keep(letter("proving.plain", {"key": "good"}, message_id="m0"))
    await letters.flush()

    [listed] = await asyncio.to_thread(dead, gristmill)
    code, output, _ = await asyncio.to_thread(gristmill, "dead", "replay", listed["id"], "--json")

    assert (listed["messages"], listed["count"], listed["message_id"]) == (3, 4, "m0")
    assert (code, [row["outcome"] for row in json.loads(output)]) == (0, ["enqueued"] * 3)
    jobs = psql.execute("SELECT idempotency_key FROM proving.plain_jobs ORDER BY 1").fetchall()
    assert [row["idempotency_key"] for row in jobs] == ["celery:m0", "celery:m1", "celery:m2"]


async def test_what_was_deleted_meanwhile_is_kept_anew(letters, psql):
    """A process remembers a message only as long as its row exists."""
    for _ in range(2):
        await letters.keep(letter("x", {}, message_id="m"))
    psql.execute("DELETE FROM runtime.dead_messages")
    await letters.flush()

    await letters.keep(letter("x", {}, message_id="m"))

    assert [row["count"] for row in kept(psql)] == [1]


async def test_a_message_waits_for_postgres_and_is_kept_when_it_is_back(letters, psql, database_url):
    """It is not acknowledged before, so the broker still has it if this process ends."""
    await letters.keep(letter("first", {}))
    with psycopg.connect(database_url) as holder:
        holder.execute("LOCK runtime.dead_messages")
        keeping = asyncio.create_task(letters.keep(letter("second", {})))
        waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%dead_messages%'"
        await until(lambda: psql.execute(waiting).fetchone())
        psql.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        await asyncio.sleep(0)
        assert not keeping.done()
    await keeping

    assert len(kept(psql)) == 2


@asynccontextmanager
async def counting(letters: DeadLetters) -> AsyncIterator[None]:
    task = asyncio.create_task(letters.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_repeats_are_written_without_being_asked(letters, psql):
    """Counts are written once a second, so that the list is up to date."""
    async with counting(letters):
        for _ in range(3):
            await letters.keep(letter("x", {}, message_id="m"))
        await until(lambda: [row["count"] for row in kept(psql)] == [3])


# ── the door's rules ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arguments", "keywords", "said"),
    [
        ([], {}, "stage is required, got nothing"),
        (["scoring.score"], {}, "payload is required, got nothing"),
        (["scoring.score", None], {}, "payload is required, got nothing"),
        ([7, {}], {}, "stage must be a text, got 7"),
        (["scoring.score", "text"], {}, "payload must be an object, got 'text'"),
        (["scoring.score", [1]], {}, r"payload must be an object, got \[1\]"),
        (
            ["scoring.score", {}],
            {"model": "x"},
            "keyword must be one of stage, payload, idempotency_key, .*, got 'model'",
        ),
        (["scoring.score", {}], {"stage": "x"}, "stage must be given once"),
        (["scoring.score", {}], {"task": "x", "self": 1}, "keyword must be one of"),
        (["a", {}, "k", 5, None, 6], {}, r"gristmill.enqueue must have at most 5 arguments \(stage, .*\), got 6"),
    ],
)
def test_what_a_message_cannot_mean_is_one_line(arguments, keywords, said):
    """The line has the field, the rule and the value, also for wrong keywords and numbers of arguments."""
    with pytest.raises(EnqueueError, match=f"^{said}"):
        read_request(arguments, keywords, message_id="1")


def test_a_message_without_key_and_id_is_refused():
    """If redelivered, it would make another job. With an idempotency key it needs no id."""
    with pytest.raises(EnqueueError, match="a message must have an id, or an idempotency_key, got nothing"):
        read_request(["s", {}], {}, message_id=None)

    assert read_request(["s", {}, "k"], {}, message_id=None).options == {"idempotency_key": "k"}
    assert read_request(["s", {}], {"priority": 1}, message_id="7").options == {
        "idempotency_key": "celery:7",
        "priority": 1,
    }


# ── list, show, replay ───────────────────────────────────────────────────────────────────────────────────────────────


def dead(gristmill: Gristmill, *options: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = as_json(gristmill, "dead", "list", *options)
    return rows


@pytest.fixture
async def refused(letters: DeadLetters) -> dict[str, str]:
    """One good message, one that is bad for good, one of another task, one cut: their reasons as they were."""
    for one in (
        letter("proving.plain", {"key": "good"}, reason="payload cannot be written: Postgres was read-only"),
        letter("proving.plain", {"colour": "red"}, reason="colour is not a field of this stage, got 'red'"),
        letter([["x", 1]], reason="a batch must be [[id, version], …]", task="proving.plain"),
        letter("proving.plain", {"key": "x" * MAX_MESSAGE_BYTES}, reason="a message must be smaller"),
    ):
        await letters.keep(one)
    return {}


def test_replay_puts_each_message_through_the_door_and_tells_what_became_of_it(refused, gristmill, psql):
    """The valid one becomes a job with its message's key, the others keep their reasons; a repeat adds nothing."""
    assert len(dead(gristmill)) == 4

    code, output, _ = gristmill("dead", "replay", "--all", "--json")

    outcomes = {row["outcome"]: row for row in json.loads(output)}
    assert code == 1
    assert len(json.loads(output)) == 4
    assert outcomes["refused"]["reason"] == "colour is not a field of this stage, got 'red'"
    kept_ones = [row["reason"] for row in json.loads(output) if row["outcome"] == "kept"]
    assert any(reason.startswith("only messages of gristmill.enqueue can be replayed") for reason in kept_ones)
    assert any("was not kept completely" in reason for reason in kept_ones)
    [job] = psql.execute("SELECT id, key, idempotency_key FROM proving.plain_jobs").fetchall()
    good = next(row for row in dead(gristmill, "--all") if row["job_id"])
    assert (job["key"], job["idempotency_key"]) == ("good", f"celery:{good['message_id']}")
    assert str(job["id"]) == outcomes["enqueued"]["job_id"] == good["job_id"]
    assert len(dead(gristmill)) == 3
    again = json.loads(gristmill("dead", "replay", good["id"], "--json")[1])
    assert [(row["outcome"], row["job_id"]) for row in again] == [("known", good["job_id"])]
    assert psql.execute("SELECT count(*) AS n FROM proving.plain_jobs").fetchone() == {"n": 1}


def test_what_was_replayed_and_comes_again_refused_waits_again(refused, gristmill, psql, database_url):
    """A replay covers only the messages before it."""
    gristmill("dead", "replay", "--all")

    async def again() -> None:
        database = Database(database_url, changed_by="test")
        await DeadLetters(database).keep(letter("proving.plain", {"key": "good"}, reason="again"))
        await database.close()

    asyncio.run(again())

    assert "again" in [row["reason"] for row in dead(gristmill)]


def test_list_and_show_are_for_people_as_well(refused, gristmill):
    """The list shows reasons; `show` accepts the beginning of an id and prints the arguments, or one line."""
    table = gristmill("dead", "list")[1]
    [bad] = [row for row in dead(gristmill) if row["reason"].startswith("colour")]
    shown = gristmill("dead", "show", bad["id"])[1]

    assert "colour is not a field of this stage, got 'red'" in table
    assert '["proving.plain", {"colour": "red"}]' in shown
    assert gristmill("dead", "show", "nobody")[::2] == (
        1,
        "gristmill: dead message 'nobody' does not exist; `gristmill dead list` shows them",
    )
    assert gristmill("dead", "replay")[0] == 2


def test_no_service_reads_or_writes_the_list(psql, database_url):
    """The table has the messages of all services; only the workers' role may write it."""
    write = "INSERT INTO runtime.dead_messages (fingerprint, reason, size) VALUES (sha256('x'), 'r', 0)"
    for statement in ("SELECT * FROM runtime.dead_messages", "DELETE FROM runtime.dead_messages", write):
        with psycopg.connect(database_url) as service:
            service.execute("SET ROLE gristmill_service")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                service.execute(statement)
    with psycopg.connect(database_url) as worker:
        worker.execute("SET ROLE gristmill_worker")
        worker.execute(write)
        assert worker.execute("SELECT count FROM runtime.dead_messages").fetchall() == [(1,)]
