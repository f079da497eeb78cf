"""The handler of deliveries against a real server: what is sent, what each answer leads to, what is kept."""

import asyncio
import json
from datetime import timedelta

import pytest

from gristmill_testing.waiting import until
from tests.support.callbacks import KEYRING, RULES, TESTER, Callbacks, Receiver, telling
from tests.support.fakes.web_server import Seen
from workers.notifications.deliver_notice import MAX_IN_FLIGHT
from workers.notifications.deliveries import find_delivery, resend_delivery
from workers.notifications.endpoints import change_endpoint, delete_endpoint, ping_endpoint, rotate_secret
from workers.operations.keyring import Keyring, new_key
from workers.outbound.destinations import look_up
from workers.outbound.http import SafeHttp
from workers.runtime.refusals import Conflict, StaleVersion


@pytest.fixture
def mill(database_url, registry):
    """Make a mill whose handlers may call this machine."""
    return lambda **options: telling(database_url, registry, **options)


async def test_the_end_of_a_job_arrives_with_a_valid_signature(mill, jobs, callbacks: Callbacks, receiver: Receiver):
    """As the library of the specification verifies it; the delivery keeps the attempt."""
    await callbacks.one_off_secret(receiver)

    async with mill():
        [job] = await jobs.ready(callback_url=receiver.url("/hook"))
        [row] = await callbacks.until_states("delivered")

    [seen] = receiver.seen
    assert receiver.verified(seen) == [0]
    assert seen.headers["content-type"] == "application/json"
    assert seen.headers["webhook-id"] == f"msg_{row['id'].hex}"
    [body] = receiver.bodies
    assert (body["type"], body["data"]["job_id"], body["data"]["version"]) == ("job.completed", str(job), 3)
    [attempt] = row["attempts"]
    assert (attempt["status"], attempt["address"], attempt["error"]) == (204, "127.0.0.1", None)
    assert attempt["milliseconds"] >= 0


async def test_the_secret_of_an_owner_is_made_at_its_first_use(mill, jobs, callbacks, receiver):
    """Encrypted; the next replacement lets both sign, so a receiver that learns it late loses nothing."""
    async with mill():
        await jobs.ready(callback_url=receiver.url())
        await callbacks.until_states("delivered")
        [row] = await jobs.sql("SELECT * FROM notifications.endpoints")
        assert row["url"] is None
        assert row["secret"].startswith("gAAAA")
        first = KEYRING.decrypt(row["secret"])
        await callbacks.one_off_secret(receiver)
        receiver.secrets.append(first)
        assert receiver.verified(receiver.seen[0]) == [1]

        await until_signed(jobs, callbacks, receiver, [0, 1], callback_url=receiver.url())


async def until_signed(jobs, callbacks, receiver, secrets, **job):
    """Enqueue jobs until one is told with signatures by these secrets: a process reads them anew each second."""

    async def is_signed() -> bool:
        before = len(receiver.seen)
        await jobs.ready(**job)
        await until(lambda: len(receiver.seen) > before)
        return bool(receiver.verified(receiver.seen[-1]) == secrets)

    await until(is_signed)


async def test_two_secrets_sign_while_one_is_replaced(mill, jobs, database, callbacks, receiver):
    """Until the time is over; then only the new one does."""
    endpoint = await callbacks.endpoint(receiver)
    async with database.kernel() as conn:
        made = await rotate_secret(conn, TESTER, endpoint, rules=RULES)
        receiver.secrets.append(made.secret)
    async with mill():
        await jobs.ready()
        await callbacks.until_states("delivered")
        assert receiver.verified(receiver.seen[0]) == [0, 1]
        async with database.kernel() as conn:
            made = await rotate_secret(conn, TESTER, endpoint, rules=RULES, overlap=timedelta(0))
            receiver.secrets.append(made.secret)
        await until_signed(jobs, callbacks, receiver, [2])


@pytest.mark.parametrize("status", [301, 302, 307, 400, 404, 500])
async def test_a_failure_is_tried_again_under_the_same_id(mill, jobs, callbacks, receiver, status):
    """No redirect is followed; the attempt is kept, and the next one comes after the time of the schedule."""
    await callbacks.one_off_secret(receiver)
    receiver.answer(status, body=b"not now", Location=receiver.url("/elsewhere"))
    receiver.answer(path="/elsewhere")

    async with mill():
        await jobs.ready(callback_url=receiver.url())
        row = await callbacks.until_attempts(1)
        [due] = await jobs.sql("SELECT due_at - updated_at AS wait FROM notifications.deliveries")
        assert timedelta(seconds=5) <= due["wait"] <= timedelta(seconds=6)
        assert (row["status"], row["retry_count"]) == ("pending", 1)
        assert row["error_message"] == f"the endpoint answered {status}"
        assert row["attempts"][0]["answer"] == "not now"

        receiver.answer(200)
        [row] = await callbacks.until_states("delivered", hurry=True)

    assert {one.target for one in receiver.seen} == {"/hook"}
    assert len(set(receiver.ids)) == 1
    assert [one["status"] for one in row["attempts"]] == [status, 200]
    assert len({one.body for one in receiver.seen}) == 1


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_a_throttled_delivery_waits_as_long_as_it_is_asked(mill, jobs, callbacks, receiver, status):
    """With these statuses a receiver may say when; the schedule is shorter here."""
    receiver.answer(status, Retry_After="900")

    async with mill():
        await jobs.ready(callback_url=receiver.url())
        await callbacks.until_attempts(1)

    [due] = await jobs.sql("SELECT due_at - updated_at AS wait FROM notifications.deliveries")
    assert timedelta(seconds=899) <= due["wait"] <= timedelta(seconds=901)


async def test_the_last_attempt_fails_the_delivery(mill, jobs, callbacks, receiver):
    """Ten attempts, each kept."""
    receiver.answer(500)
    async with mill():
        await jobs.ready(callback_url=receiver.url())
        [row] = await callbacks.until_states("failed", hurry=True, within=60)

    assert len(row["attempts"]) == len(receiver.seen) == 10
    assert len(set(receiver.ids)) == 1


async def test_410_disables_the_endpoint_at_once(mill, jobs, callbacks, receiver):
    """The delivery fails, the endpoint has a row of who did it and why, and later jobs are not told."""
    endpoint = await callbacks.endpoint(receiver)
    receiver.answer(410)

    async with mill():
        await jobs.ready()
        [row] = await callbacks.until_states("failed")
        assert len(row["attempts"]) == 1
        found = await callbacks.endpoint_row(endpoint)
        assert found["disabled_at"] is not None
        [*_, change] = await jobs.sql("SELECT * FROM notifications.endpoint_changes ORDER BY id")
        assert (change["action"], change["endpoint_id"]) == ("disabled", endpoint)
        assert "410" in change["reason"]
        assert change["changed_by"].startswith("worker:")

        await jobs.ready()

        async def both_completed():
            return await jobs.count(status="completed") == 2

        await until(both_completed)
    assert await jobs.sql("SELECT * FROM runtime.notices") == []
    assert await callbacks.states() == ["failed"]


@pytest.mark.parametrize("status", [410, 500])
async def test_an_endpoint_is_not_blamed_for_the_address_that_it_had(  # noqa: PLR0917 - pytest passes them by name
    mill, jobs, database, callbacks, receiver, status
):
    """Its owner changes the address while an attempt to the old one is under way."""
    endpoint = await callbacks.endpoint(receiver, "/old")

    async def moved(_seen: Seen, writer: asyncio.StreamWriter) -> None:
        async with database.kernel() as conn:
            await change_endpoint(conn, TESTER, endpoint, {"url": receiver.url("/hook")}, rules=RULES)
        writer.write(f"HTTP/1.1 {status} Said\r\ncontent-length: 0\r\n\r\n".encode())

    receiver.web.answers["/old"] = moved
    async with mill():
        await jobs.ready()
        await callbacks.until_attempts(1)

    found = await callbacks.endpoint_row(endpoint)
    assert (found["disabled_at"], found["consecutive_failures"]) == (None, 0)


async def test_410_of_a_one_off_address_ends_its_delivery(mill, jobs, callbacks, receiver):
    """There is nothing to disable."""
    receiver.answer(410)
    async with mill():
        await jobs.ready(callback_url=receiver.url())
        [row] = await callbacks.until_states("failed")

    assert row["error_message"] == "the endpoint answered 410"


async def test_an_endpoint_that_failed_for_long_is_disabled(mill, jobs, callbacks, receiver):
    """Ten failures and five days without one success; one success before that makes it well again."""
    endpoint = await callbacks.endpoint(receiver)
    age = """UPDATE notifications.endpoints SET consecutive_failures = %s,
               first_failure_at = now() - interval '5 days 1 minute' WHERE id = %s"""
    await jobs.sql(age, 8, endpoint)
    receiver.answer(500)
    async with mill():
        await jobs.ready()
        await callbacks.until_attempts(1)
        assert (await callbacks.endpoint_row(endpoint))["disabled_at"] is None
        receiver.answer(200)
        await callbacks.until_states("delivered", hurry=True)
        found = await callbacks.endpoint_row(endpoint)
        assert (found["consecutive_failures"], found["first_failure_at"]) == (0, None)

        await jobs.sql(age, 9, endpoint)
        receiver.answer(500)
        await jobs.ready()

        async def is_disabled():
            return (await callbacks.endpoint_row(endpoint))["disabled_at"] is not None

        await until(is_disabled)
        [*_, change] = await jobs.sql("SELECT * FROM notifications.endpoint_changes ORDER BY id")
        assert change["reason"].startswith("10 attempts failed since ")
        # What still waited for it is not sent.
        [_, row] = await callbacks.until_states("delivered", "cancelled", hurry=True)
        assert "disabled" in row["change_reason"]


async def test_an_endpoint_that_is_enabled_again_gets_what_is_sent_again(mill, jobs, database, callbacks, receiver):
    """Under the same id; its failures are forgotten."""
    endpoint = await callbacks.endpoint(receiver)
    receiver.answer(410)
    async with mill():
        await jobs.ready()
        [row] = await callbacks.until_states("failed")
        receiver.answer(200)
        async with database.kernel() as conn:
            changed = await change_endpoint(conn, TESTER, endpoint, {"enabled": True}, rules=RULES)
            assert (changed.disabled_at, changed.consecutive_failures) == (None, 0)
            await resend_delivery(conn, TESTER, row["id"], version=row["version"])
        await callbacks.until_states("delivered")

    assert len(receiver.seen) == 2
    assert len(set(receiver.ids)) == 1


async def test_a_deleted_endpoint_gets_nothing_more(mill, jobs, database, callbacks, receiver):
    """Its waiting deliveries are cancelled."""
    endpoint = await callbacks.endpoint(receiver)
    receiver.answer(500)
    async with mill():
        await jobs.ready()
        await callbacks.until_attempts(1)
        async with database.kernel() as conn:
            await delete_endpoint(conn, TESTER, endpoint)
        [row] = await callbacks.until_states("cancelled", hurry=True)

    assert row["change_reason"] == "its endpoint was deleted"


PRIVATE = [
    "http://127.0.0.1:{port}/hook",
    "http://2130706433:{port}/hook",
    "http://0x7f.1:{port}/hook",
    "http://[::ffff:127.0.0.1]:{port}/hook",
    "http://localhost:{port}/hook",
    "http://169.254.169.254/latest",
    "http://[fd00:ec2::254]/",
    "http://10.1.2.3/",
]


@pytest.mark.parametrize("url", PRIVATE)
async def test_an_address_inside_the_network_is_refused_for_good(mill, jobs, callbacks, receiver, url):
    """Nothing is connected to, and no attempt follows."""
    async with mill(http=SafeHttp()):
        await jobs.ready(callback_url=url.format(port=receiver.web.port))
        [row] = await callbacks.until_states("failed")

    assert receiver.web.connections == 0
    [attempt] = row["attempts"]
    assert "must not be called" in attempt["error"]


class Rebinding:
    """A name that is public at the first lookup and inside at all later ones, or the other way round."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)

    async def __call__(self, host: str, port: int):
        if host != "rebind.example":
            return await look_up(host, port)
        return [self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]]


async def test_a_name_that_turns_inside_is_refused_when_it_is_called(mill, jobs, callbacks, receiver):
    """The address is checked where it is connected to: the lookup of a door counts for nothing."""
    resolve = Rebinding("93.184.216.34", "127.0.0.1")
    assert await resolve("rebind.example", 80) == ["93.184.216.34"]

    async with mill(http=SafeHttp(resolve=resolve)):
        await jobs.ready(callback_url=f"http://rebind.example:{receiver.web.port}/hook")
        [row] = await callbacks.until_states("failed")

    assert receiver.web.connections == 0
    assert "loopback" in row["error_message"]


async def test_a_name_that_is_not_found_is_looked_up_again(mill, jobs, callbacks, receiver):
    """It may be there later."""
    async with mill():
        await jobs.ready(callback_url="http://no-such-host.invalid/hook")
        row = await callbacks.until_attempts(1)

    assert row["status"] == "pending"
    assert "cannot be found" in row["error_message"]


async def test_a_receiver_that_hangs_holds_no_other(mill, jobs, callbacks, receiver):
    """Of one lane so many are under way at once, and the slots of the others stay free."""
    held = asyncio.Event()
    running = 0

    async def hang(_seen: Seen, _writer: asyncio.StreamWriter) -> None:
        nonlocal running
        running += 1
        await held.wait()

    receiver.web.answers["/slow"] = hang
    await callbacks.endpoint(receiver, "/slow")
    async with mill(slots=4 * MAX_IN_FLIGHT):
        await jobs.ready(count=5 * MAX_IN_FLIGHT)
        await until(lambda: running >= MAX_IN_FLIGHT, within=15)
        await callbacks.endpoint(receiver, "/hook")
        await jobs.ready()

        async def is_told():
            rows = await callbacks.rows()
            return any(row["status"] == "delivered" for row in rows)

        await until(is_told, within=15)
        assert running == MAX_IN_FLIGHT
        held.set()


async def test_the_status_counts_not_the_body(mill, jobs, callbacks, receiver):
    """A receiver that accepts and then sends without end, or nothing, has accepted."""

    async def endless(_seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 Said\r\ncontent-length: 99999999\r\n\r\n" + b"x" * 100_000)

    async def silent(_seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 Said\r\ncontent-length: 10\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(30)

    async def brotli(_seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 Said\r\ncontent-encoding: br\r\ncontent-length: 2\r\n\r\n\x0b\x02")

    receiver.web.answers |= {"/endless": endless, "/silent": silent, "/brotli": brotli}
    async with mill():
        for path in ("/endless", "/silent", "/brotli"):
            await jobs.ready(callback_url=receiver.url(path))
        rows = await callbacks.until_states("delivered", "delivered", "delivered")

    assert {len(row["attempts"]) for row in rows} == {1}


async def test_without_the_key_nothing_is_sent_and_nothing_is_lost(mill, jobs, callbacks, receiver):
    """A worker with another key says so at each attempt; the next one with the key delivers."""
    await callbacks.endpoint(receiver)
    async with mill(keyring=Keyring([new_key()])):
        await jobs.ready()
        row = await callbacks.until_attempts(1)
        assert row["error_message"].startswith("message cannot be signed: ")
        assert receiver.seen == []
    async with mill():
        await callbacks.until_states("delivered", hurry=True)

    assert receiver.verified(receiver.seen[0]) == [0]


async def test_a_test_message_goes_also_to_a_disabled_endpoint(mill, jobs, database, callbacks, receiver):
    """One attempt, which does not count for the endpoint."""
    endpoint = await callbacks.endpoint(receiver)
    async with database.kernel() as conn:
        await change_endpoint(conn, TESTER, endpoint, {"enabled": False}, rules=RULES)
        first = await ping_endpoint(conn, TESTER, endpoint)
    async with mill():
        await callbacks.until_states("delivered")
        receiver.answer(500)
        async with database.kernel() as conn:
            await ping_endpoint(conn, TESTER, endpoint)
        await callbacks.until_states("delivered", "failed")

    assert receiver.verified(receiver.seen[0]) == [0]
    assert json.loads(receiver.seen[0].body) == {
        "type": "endpoint.ping",
        "timestamp": receiver.bodies[0]["timestamp"],
        "data": {"endpoint_id": str(endpoint)},
    }
    assert receiver.ids[0] == f"msg_{first.hex}"
    assert (await callbacks.endpoint_row(endpoint))["consecutive_failures"] == 0


async def test_a_delivery_is_sent_again_by_the_whole_schedule(mill, jobs, database, callbacks, receiver):
    """Under the same id, once per version; one under way is not."""
    receiver.answer(500)
    async with mill():
        await jobs.ready(callback_url=receiver.url())
        row = await callbacks.until_attempts(1)
        async with database.kernel() as conn:
            with pytest.raises(Conflict, match="only an ended one"):
                await resend_delivery(conn, TESTER, row["id"])
        await callbacks.until_states("failed", hurry=True, within=60)
        async with database.kernel() as conn:
            ended = await find_delivery(conn, row["id"])
            sent = await resend_delivery(conn, TESTER, row["id"], version=ended.version)
            assert (sent.status, sent.version) == ("pending", ended.version + 1)
            with pytest.raises(StaleVersion, match="is at version"):
                await resend_delivery(conn, TESTER, row["id"], version=ended.version)

        async def has_one_more():
            rows = await callbacks.rows()
            return len(rows[0]["attempts"]) == 11 and rows[0]["status"] == "pending"

        await until(has_one_more)
        [due] = await jobs.sql("SELECT due_at - updated_at AS wait FROM notifications.deliveries")
        assert timedelta(seconds=5) <= due["wait"] <= timedelta(seconds=6)
        receiver.answer(200)
        await callbacks.until_states("delivered", hurry=True)
        async with database.kernel() as conn:
            done = await find_delivery(conn, row["id"])
            await resend_delivery(conn, TESTER, row["id"], version=done.version)
        await until(lambda: len(receiver.seen) == 13)
        await callbacks.until_states("delivered")

    assert len(set(receiver.ids)) == 1
    assert "resend" in await jobs.actions(row["id"])
