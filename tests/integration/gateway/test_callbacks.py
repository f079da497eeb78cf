"""The routes of callbacks: secrets are shown once, versions guard changes, others' objects look as if missing."""

import uuid
from contextlib import asynccontextmanager

import pytest

from gateway.app import create_app
from tests.support.callbacks import KEYRING, RULES
from tests.support.gateway import KeyTable, client_of, make_caller, make_resources

ALICE, BOB = uuid.uuid4(), uuid.uuid4()
CALLERS = {
    "gm_alice": make_caller("callbacks", name="key:alice", user_id=ALICE),
    "gm_reader": make_caller("callbacks:read", name="key:reader", user_id=ALICE),
    "gm_bob": make_caller("callbacks", name="key:bob", user_id=BOB),
    "gm_jobs": make_caller("jobs:read", "jobs:write", name="key:jobs", user_id=ALICE),
    "gm_admin": make_caller("admin", name="key:admin"),
}
URL = "https://service.example/hook"


@pytest.fixture
async def client(database_url, redis_url, registry):
    """A client as Alice."""

    @asynccontextmanager
    async def keys(_database):
        yield KeyTable(CALLERS)

    resources = make_resources(database_url, redis_url=redis_url, open_authenticator=keys, callbacks=RULES)
    async with client_of(create_app(resources), "gm_alice") as client:
        yield client


def by(name):
    return {"Authorization": f"Bearer gm_{name}"}


async def make(client, **more):
    answer = await client.post("/v1/callbacks/endpoints", json={"url": URL, **more})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def test_an_endpoint_is_made_shown_changed_and_deleted(client, jobs):
    """Its secret comes once; ETag is its version."""
    made = await make(client, stages=["proving.plain"])
    endpoint, path = made["endpoint"], f"/v1/callbacks/endpoints/{made['endpoint']['id']}"
    assert made["secret"].startswith("whsec_")
    assert endpoint["owner_id"] == str(ALICE)
    assert endpoint["created_by"].endswith("key:alice")
    [row] = await jobs.sql("SELECT secret FROM notifications.endpoints")
    assert KEYRING.decrypt(row["secret"]) == made["secret"]

    shown = await client.get(path)
    assert (shown.json(), shown.headers["etag"]) == (endpoint, '"1"')
    assert made["secret"] not in shown.text
    assert (await client.patch(path, json={"enabled": False})).status_code == 428
    changed = await client.patch(path, json={"enabled": False, "stages": None}, headers={"If-Match": '"1"'})
    assert (changed.status_code, changed.headers["etag"]) == (200, '"2"')
    assert changed.json()["disabled_at"] is not None
    assert (changed.json()["stages"], changed.json()["url"]) == (None, URL)
    stale = await client.patch(path, json={"enabled": True}, headers={"If-Match": '"1"'})
    assert stale.status_code == 412
    assert "version 2, got version 1" in stale.json()["detail"]

    listed = await client.get("/v1/callbacks/endpoints")
    assert listed.json() == {"items": [changed.json()], "next": None}
    assert (await client.delete(path, headers={"If-Match": '"1"'})).status_code == 412
    assert (await client.delete(path, headers={"If-Match": '"2"'})).status_code == 204
    assert (await client.get(path)).status_code == 404


async def test_a_secret_is_replaced(client):
    """That of an endpoint, and that of one-off addresses; the answer says until when the old one signs."""
    made = await make(client)
    path = f"/v1/callbacks/endpoints/{made['endpoint']['id']}/rotate-secret"

    rotated = await client.post(path, json={"overlap_seconds": 3600}, headers={"If-Match": '"1"'})
    assert rotated.json()["secret"] != made["secret"]
    assert rotated.json()["endpoint"]["version"] == 2
    assert rotated.json()["previous_until"] is not None
    assert (await client.post(path, headers={"If-Match": '"1"'})).status_code == 412
    assert (await client.post(path, json={"overlap_seconds": -1})).status_code == 422
    first = (await client.post("/v1/callbacks/secret")).json()
    second = (await client.post("/v1/callbacks/secret", json={})).json()
    assert (first["previous_until"], first["secret"] != second["secret"]) == (None, True)
    assert second["previous_until"] is not None


async def test_a_test_message_is_a_delivery_that_can_be_sent_again(client, jobs):
    """Listed with its attempts, newest first; only an ended one can be sent again."""
    endpoint = (await make(client))["endpoint"]["id"]
    sent = await client.post(f"/v1/callbacks/endpoints/{endpoint}/test")
    assert sent.status_code == 202
    path = f"/v1/callbacks/{sent.json()['delivery_id']}"

    shown = await client.get(path)
    assert (shown.json()["status"], shown.json()["event"], shown.headers["etag"]) == ("pending", "endpoint.ping", '"1"')
    assert (await client.post(f"{path}/resend")).status_code == 409
    await jobs.sql("UPDATE notifications.deliveries SET status = 'cancelled', version = 2, completed_at = now()")
    assert (await client.post(f"{path}/resend", headers={"If-Match": '"1"'})).status_code == 412
    again = await client.post(f"{path}/resend", headers={"If-Match": '"2"'})
    assert (again.json()["status"], again.json()["message_id"]) == ("pending", shown.json()["message_id"])
    listed = (await client.get("/v1/callbacks", params={"endpoint_id": endpoint, "status": "pending"})).json()
    assert [one["id"] for one in listed["items"]] == [again.json()["id"]]


async def test_lists_come_in_pages(client):
    """`next` is the cursor; one of another list is refused."""
    for _ in range(3):
        await make(client)

    first = (await client.get("/v1/callbacks/endpoints", params={"limit": 2})).json()
    rest = (await client.get("/v1/callbacks/endpoints", params={"limit": 2, "cursor": first["next"]})).json()
    assert [len(first["items"]), len(rest["items"]), rest["next"]] == [2, 1, None]
    wrong = await client.get("/v1/callbacks", params={"cursor": first["next"]})
    assert (wrong.status_code, wrong.json()["errors"][0]["field"]) == (422, "cursor")


ENDPOINT_CALLS = [
    ("GET", "/v1/callbacks/endpoints/{}", None),
    ("PATCH", "/v1/callbacks/endpoints/{}", {"enabled": False}),
    ("DELETE", "/v1/callbacks/endpoints/{}", None),
    ("POST", "/v1/callbacks/endpoints/{}/rotate-secret", None),
    ("POST", "/v1/callbacks/endpoints/{}/test", None),
]
DELIVERY_CALLS = [("GET", "/v1/callbacks/{}", None), ("POST", "/v1/callbacks/{}/resend", None)]
ALL_CALLS = [*ENDPOINT_CALLS, *DELIVERY_CALLS, ("GET", "/v1/callbacks", None)]


@pytest.mark.parametrize(("method", "path", "body"), [*ENDPOINT_CALLS, *DELIVERY_CALLS])
async def test_what_belongs_to_others_answers_like_what_is_missing(client, method, path, body):
    """The same status and the same words, apart from the id."""
    endpoint = (await make(client))["endpoint"]["id"]
    delivery = (await client.post(f"/v1/callbacks/endpoints/{endpoint}/test")).json()["delivery_id"]
    others, missing = (endpoint if "endpoints" in path else delivery), str(uuid.uuid4())

    answers = [
        await client.request(method, path.format(id_), json=body, headers=by("bob") | {"If-Match": "*"})
        for id_ in (others, missing)
    ]

    assert {one.status_code for one in answers} == {404}
    first, second = (one.json() for one in answers)
    assert first["detail"].replace(others, missing) == second["detail"]
    assert (await client.get("/v1/callbacks/endpoints", headers=by("bob"))).json()["items"] == []
    assert (await client.get("/v1/callbacks", headers=by("bob"))).json()["items"] == []


@pytest.mark.parametrize(("method", "path", "body"), ALL_CALLS)
async def test_each_route_needs_its_scope(client, method, path, body):
    """Reading needs callbacks:read, all else callbacks."""
    call = {"method": method, "url": path.format(uuid.uuid4()), "json": body}
    refused = await client.request(**call, headers=by("jobs") | {"If-Match": "*"})
    assert (refused.status_code, refused.json()["type"]) == (403, "/problems/forbidden")
    assert (await client.request(**call, headers={"Authorization": "Bearer gm_nobody"})).status_code == 401
    as_reader = await client.request(**call, headers=by("reader") | {"If-Match": "*"})
    assert as_reader.status_code == (403 if method != "GET" else 200 if path == "/v1/callbacks" else 404)


REFUSED = {
    "a private address": ({"url": "http://127.0.0.2/x"}, "url"),
    "another protocol": ({"url": "gopher://service.example/"}, "url"),
    "no address": ({"url": ""}, "url"),
    "nothing": ({}, "url"),
    "an unknown stage": ({"url": URL, "stages": ["no.stage"]}, "stages"),
    "no stage": ({"url": URL, "stages": []}, "stages"),
    "another field": ({"url": URL, "secret": "whsec_x"}, "secret"),
    "a header": ({"url": "https://service.example/\r\nx: y"}, "url"),
}


@pytest.mark.parametrize(("body", "field"), REFUSED.values(), ids=REFUSED)
async def test_a_wrong_endpoint_is_refused_naming_the_field(database_url, redis_url, registry, body, field):
    """422, and nothing is stored."""

    @asynccontextmanager
    async def keys(_database):
        yield KeyTable(CALLERS)

    rules = type(RULES)(keyring=KEYRING)
    resources = make_resources(database_url, redis_url=redis_url, open_authenticator=keys, callbacks=rules)
    async with client_of(create_app(resources), "gm_alice") as client:
        answer = await client.post("/v1/callbacks/endpoints", json=body)

        assert answer.status_code == 422, answer.text
        assert answer.json()["errors"][0]["field"].split(".")[0] == field
        assert (await client.get("/v1/callbacks/endpoints")).json()["items"] == []


async def test_only_operators_hear_of_everybody(client):
    """The database refuses it to all others."""
    refused = await client.post("/v1/callbacks/endpoints", json={"url": URL, "every_owner": True})
    assert refused.status_code in {403, 422}
    made = await client.post("/v1/callbacks/endpoints", json={"url": URL, "every_owner": True}, headers=by("admin"))
    assert (made.status_code, made.json()["endpoint"]["owner_id"]) == (201, None)
    await make(client)
    listed = (await client.get("/v1/callbacks/endpoints", headers=by("admin"))).json()["items"]
    assert {one["owner_id"] for one in listed} == {None, str(ALICE)}
