"""The use-cases on endpoints: a secret is shown once and stored encrypted, versions, records of changes."""

import uuid
from datetime import timedelta

import pytest

from models.notifications import DELIVERIES
from tests.support.callbacks import KEY, KEYRING, RULES, TESTER
from workers.notifications.deliveries import STATES, find_delivery, list_deliveries
from workers.notifications.endpoints import (
    change_endpoint,
    create_endpoint,
    delete_endpoint,
    find_endpoint,
    list_endpoints,
    ping_endpoint,
    reencrypt_secrets,
    replace_one_off_secret,
    rotate_secret,
)
from workers.notifications.refusals import CallbackError, UnknownDelivery, UnknownEndpoint
from workers.notifications.rules import CallbackRules
from workers.operations.keyring import Keyring, new_key
from workers.runtime.actor import Actor
from workers.runtime.cursors import WrongCursorError
from workers.runtime.refusals import Refusal, StaleVersion

URL = "https://service.example/hook"


@pytest.fixture
async def conn(database):
    async with database.kernel() as conn:
        yield conn


@pytest.fixture
async def made(conn):
    return await create_endpoint(conn, TESTER, rules=RULES, url=URL, stages=["proving.plain", "proving.plain"])


async def test_a_secret_is_shown_once_and_stored_encrypted(conn, made, jobs):
    """No view and no representation has it."""
    [row] = await jobs.sql("SELECT * FROM notifications.endpoints")

    assert made.secret.startswith("whsec_")
    assert KEYRING.decrypt(row["secret"]) == made.secret
    assert made.secret not in repr(made) + repr(await find_endpoint(conn, made.endpoint.id))
    assert (made.endpoint.version, made.endpoint.stages, made.endpoint.created_by) == (1, ["proving.plain"], "tester")


REFUSED = {
    "url must not be": {"url": "http://10.0.0.1/"},
    "url must be allowed: ": {"url": "ftp://service.example/"},
    "stages must be registered stages, got 'proving.plane'": {"stages": ["proving.plane"]},
    "stages must name 1 to 100 stages, got 0": {"stages": []},
    "stages must name 1 to 100 stages, got 101": {"stages": [f"s{n}" for n in range(101)]},
}


@pytest.mark.parametrize(("line", "wrong"), REFUSED.items())
async def test_a_wrong_endpoint_is_refused_in_one_line(conn, jobs, line, wrong):
    """Nothing is stored."""
    with pytest.raises(CallbackError) as caught:
        await create_endpoint(conn, TESTER, rules=RULES, **{"url": URL, **wrong})

    assert str(caught.value).startswith(line)
    assert await jobs.sql("SELECT id FROM notifications.endpoints") == []


async def test_without_a_key_no_endpoint_is_made(conn, jobs):
    """The line says which setting is missing."""
    with pytest.raises(Refusal, match="GRISTMILL_SECRET_KEYS must be set"):
        await create_endpoint(conn, TESTER, rules=CallbackRules(keyring=Keyring([])), url=URL)

    assert await jobs.sql("SELECT id FROM notifications.endpoints") == []


async def test_a_change_needs_the_version_that_was_read(conn, made):
    """And counts it; what is not given stays."""
    id_ = made.endpoint.id

    changed = await change_endpoint(conn, TESTER, id_, {"url": URL + "/2"}, rules=RULES, version=1)
    assert (changed.version, changed.url, changed.stages) == (2, URL + "/2", ["proving.plain"])
    with pytest.raises(StaleVersion, match="is at version 2, got version 1"):
        await change_endpoint(conn, TESTER, id_, {"stages": None}, rules=RULES, version=1)
    with pytest.raises(StaleVersion):
        await change_endpoint(conn, TESTER, id_, {}, rules=RULES, version=1)
    with pytest.raises(StaleVersion):
        await rotate_secret(conn, TESTER, id_, rules=RULES, version=1)
    with pytest.raises(StaleVersion):
        await delete_endpoint(conn, TESTER, id_, version=1)
    changed = await change_endpoint(conn, TESTER, id_, {"stages": None}, rules=RULES, version=2)
    assert (changed.version, changed.stages) == (3, None)


async def test_what_happens_to_an_endpoint_is_on_record(conn, made, jobs):
    """Who, when and why; also after it is deleted."""
    id_ = made.endpoint.id
    await change_endpoint(conn, TESTER, id_, {"enabled": False}, rules=RULES)
    await change_endpoint(conn, TESTER, id_, {"enabled": False}, rules=RULES)
    await change_endpoint(conn, TESTER, id_, {"enabled": True}, rules=RULES)
    await rotate_secret(conn, Actor(changed_by="anna"), id_, rules=RULES)
    await delete_endpoint(conn, TESTER, id_)

    found = await jobs.sql("SELECT * FROM notifications.endpoint_changes ORDER BY id")

    assert [(one["action"], one["version"]) for one in found] == [
        ("created", 1), ("disabled", 2), ("enabled", 3), ("rotated", 4), ("deleted", 4),
    ]  # fmt: skip
    assert {one["changed_by"] for one in found} == {"tester", "anna"}
    assert found[1]["reason"] == "a test"
    assert not {"secret", "url"} & found[0].keys()


async def test_a_replaced_secret_signs_for_a_while(conn, made, jobs):
    """The old one becomes the previous one, for a day or as long as is said."""
    first = await rotate_secret(conn, TESTER, made.endpoint.id, rules=RULES)
    [row] = await jobs.sql("SELECT *, previous_until - now() AS overlap FROM notifications.endpoints")
    assert [KEYRING.decrypt(row[name]) for name in ("secret", "previous_secret")] == [first.secret, made.secret]
    assert timedelta(hours=23) < row["overlap"] <= timedelta(days=1)

    second = await rotate_secret(conn, TESTER, made.endpoint.id, rules=RULES, overlap=timedelta(0))
    [row] = await jobs.sql("SELECT *, previous_until <= clock_timestamp() AS over FROM notifications.endpoints")
    assert KEYRING.decrypt(row["secret"]) == second.secret
    assert row["over"]
    with pytest.raises(CallbackError, match="overlap must be from 0 to 30 days"):
        await rotate_secret(conn, TESTER, made.endpoint.id, rules=RULES, overlap=timedelta(days=31))


async def test_each_owner_has_one_secret_for_its_one_off_addresses(conn, jobs):
    """It is made and replaced by the same call, and is no endpoint of the list."""
    owner = Actor(changed_by="tester", user_id=uuid.uuid4())
    made = [await replace_one_off_secret(conn, actor, rules=RULES) for actor in (TESTER, owner, owner)]

    rows = await jobs.sql("SELECT * FROM notifications.endpoints ORDER BY owner_id NULLS FIRST")
    assert [row["owner_id"] for row in rows] == [None, owner.user_id]
    assert KEYRING.decrypt(rows[0]["secret"]) == made[0].secret
    assert KEYRING.decrypt(rows[1]["secret"]) == made[2].secret
    assert KEYRING.decrypt(rows[1]["previous_secret"]) == made[1].secret
    assert made[1].previous_until is None
    assert made[2].previous_until is not None
    assert await list_endpoints(conn) == ([], None)
    with pytest.raises(UnknownEndpoint):
        await delete_endpoint(conn, TESTER, rows[0]["id"])


async def test_an_owner_has_fifty_endpoints_at_most(conn, jobs):
    """Each ended job may become a delivery to all of them."""
    await jobs.sql("INSERT INTO notifications.endpoints (url, secret) SELECT %s, 's' FROM generate_series(1, 50)", URL)

    with pytest.raises(CallbackError, match="endpoint must be one of at most 50 of its owner"):
        await create_endpoint(conn, TESTER, rules=RULES, url=URL)
    other = Actor(changed_by="tester", user_id=uuid.uuid4())
    await create_endpoint(conn, other, rules=RULES, url=URL)
    [row] = await jobs.sql("SELECT owner_id FROM notifications.endpoints WHERE owner_id = %s", other.user_id)
    assert row["owner_id"] == other.user_id


async def test_endpoints_come_in_pages(conn):
    """In the order of their making; a page is stable while others are made."""
    urls = [f"{URL}/{n}" for n in range(6)]
    for url in urls[:5]:
        await create_endpoint(conn, TESTER, rules=RULES, url=url)

    first, cursor = await list_endpoints(conn, limit=2)
    await create_endpoint(conn, TESTER, rules=RULES, url=urls[5])
    second, cursor = await list_endpoints(conn, limit=3, cursor=cursor)
    third, end = await list_endpoints(conn, limit=3, cursor=cursor)

    assert [one.url for one in first + second + third] == urls
    assert end is None


async def test_deliveries_come_in_pages_newest_first(conn, made):
    """Filtered by endpoint, job and status; a cursor fits its filter only."""
    ids = [await ping_endpoint(conn, TESTER, made.endpoint.id) for _ in range(3)]

    page, cursor = await list_deliveries(conn, endpoint_id=made.endpoint.id, limit=2)
    rest, end = await list_deliveries(conn, endpoint_id=made.endpoint.id, limit=2, cursor=cursor)

    assert [one.id for one in page + rest] == ids[::-1]
    assert end is None
    assert await list_deliveries(conn, status="failed") == ([], None)
    assert await list_deliveries(conn, job_id=uuid.uuid4()) == ([], None)
    with pytest.raises(WrongCursorError, match="cursor must be"):
        await list_deliveries(conn, status="pending", cursor=cursor)
    with pytest.raises(CallbackError, match="status must be one of"):
        await list_deliveries(conn, status="lost")
    shown = await find_delivery(conn, ids[0])
    assert (shown.destination, shown.event, shown.attempts) == (URL, "endpoint.ping", [])
    with pytest.raises(UnknownDelivery):
        await find_delivery(conn, uuid.uuid4())


def test_the_states_of_deliveries_are_those_of_their_lifecycle():
    """A list can be asked for each."""
    assert set(STATES) == DELIVERIES.states


async def test_secrets_are_encrypted_again_with_a_new_key(conn, database, made, jobs):
    """Both of an endpoint; its version and the order of its secrets stay."""
    second = await rotate_secret(conn, TESTER, made.endpoint.id, rules=RULES)
    new = new_key()

    async with database.session() as session:
        assert await reencrypt_secrets(session, keyring=Keyring([new, KEY]), actor=TESTER) == 2

    [row] = await jobs.sql("SELECT * FROM notifications.endpoints")
    assert [Keyring([new]).decrypt(row[name]) for name in ("secret", "previous_secret")] == [second.secret, made.secret]
    assert row["version"] == 2
    assert len(await jobs.sql("SELECT id FROM notifications.endpoint_changes")) == 2


async def test_a_secret_that_no_key_reads_changes_none(conn, database, made, jobs):
    """The line names the endpoint."""
    before = await jobs.sql("SELECT secret FROM notifications.endpoints")
    with pytest.raises(CallbackError, match=f"secret of endpoint {made.endpoint.id}: no key"):
        async with database.session() as session:
            await reencrypt_secrets(session, keyring=Keyring([new_key()]), actor=TESTER)

    assert await jobs.sql("SELECT secret FROM notifications.endpoints") == before
