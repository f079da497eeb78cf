"""What the routes of the domains promise beyond their table: pages, versions, repeats, owners."""

import uuid

import pytest

from tests.support.operations_rows import put_record
from tests.support.route_table import REQUEST, WINDOW


async def pages(client, path: str, header: dict[str, str], **params):
    """Yield the items of a list, page by page, as a client reads them."""
    cursor = None
    while True:
        asked = params | ({"cursor": cursor} if cursor else {})
        answer = await client.get(path, params=asked, headers=header)
        assert answer.status_code == 200, answer.text
        yield answer.json()["items"]
        cursor = answer.json()["next"]
        if cursor is None:
            return


async def test_pages_are_stable_while_items_are_added(client, world, psql):
    """Each item that was there at the first page is read exactly once."""
    header = await world.key("alice", "operations:read")
    project = world.names["project"]
    there = {world.names["record"]} | {put_record(psql, project, f"c{n}") for n in range(6)}

    read = []
    async for page in pages(client, f"/v1/projects/{project}/records", header, limit=2):
        assert len(page) <= 2
        read += [uuid.UUID(one["id"]) for one in page]
        put_record(psql, project, f"later {len(read)}")

    assert sorted(read) == sorted(there)


@pytest.mark.parametrize(
    ("path", "count"),
    [("/v1/projects", 4), ("/v1/bonus-windows", 4), ("/v1/profiles", 4), ("/v1/assessments", 4)],
)
async def test_every_list_comes_in_pages(client, world, path, count):
    """By name, by time or by id; nothing twice, nothing left out."""
    header = await world.key("root", "operations", "scoring", "assessments")
    for number in range(count):
        bodies = {
            "/v1/projects": {"name": f"p{number}"},
            "/v1/bonus-windows": WINDOW | {"name": f"w{number}"},
            "/v1/profiles": {"name": f"n{number}"},
            "/v1/assessments": {"assessment_id": f"a{number}", "request": REQUEST},
        }
        assert (await client.post(path, json=bodies[path], headers=header)).status_code == 201

    whole = [one async for page in pages(client, path, header, limit=200) for one in page]
    cut = [one async for page in pages(client, path, header, limit=1) for one in page]

    assert len(whole) >= count
    assert cut == whole


async def test_a_cursor_is_bound_to_its_list_its_filters_and_its_caller(client, world, psql):
    """Else a client that changes a filter would skip items and not notice."""
    project = world.names["project"]
    put_record(psql, project, "second")
    path = f"/v1/projects/{project}/records"
    alice, bob = await world.key("alice", "operations:read"), await world.key("bob", "operations:read")
    cursor = (await client.get(path, params={"limit": 1}, headers=alice)).json()["next"]

    answers = [
        await client.get(path, params={"limit": 1, "cursor": cursor}, headers=alice),
        await client.get(path, params={"limit": 1, "cursor": cursor, "type": "task"}, headers=alice),
        await client.get(path, params={"limit": 1, "cursor": cursor}, headers=bob),
        await client.get(f"/v1/projects/{project}/ratings", params={"cursor": cursor}, headers=alice),
        await client.get(path, params={"limit": 1, "cursor": cursor[:-3]}, headers=alice),
        await client.get(path, params={"limit": 1, "cursor": "é"}, headers=alice),
    ]

    assert [answer.status_code for answer in answers] == [200, 422, 422, 422, 422, 422]
    assert answers[1].json()["errors"][0]["field"] == "cursor"


async def test_the_same_profile_is_added_once(client, world):
    """201, then 200 with the first one; with other attributes it is another profile."""
    header = await world.key("alice", "scoring")
    body = {"name": "Grace", "attributes": {"a": 1}}

    first, again = [await client.post("/v1/profiles", json=body, headers=header) for _ in range(2)]
    other = await client.post("/v1/profiles", json=body | {"attributes": {"a": 2}}, headers=header)

    assert (first.status_code, again.status_code, other.status_code) == (201, 200, 201)
    assert first.json() == again.json() != other.json()
    assert again.headers["Idempotent-Replayed"] == "true"
    assert first.headers["Location"] == f"/v1/profiles/{first.json()['id']}"


async def test_a_repeated_key_returns_the_first_job(client, world):
    """By header or field; two different keys and other content are refused by name."""
    header = await world.key("alice", "scoring")
    path, body = f"/v1/profiles/{world.names['profile']}/score", {"prompt": "Judge."}

    first = await client.post(path, json=body, headers=header | {"Idempotency-Key": "k-1"})
    again = await client.post(path, json=body | {"idempotency_key": "k-1"}, headers=header)
    two = await client.post(path, json=body | {"idempotency_key": "k-2"}, headers=header | {"Idempotency-Key": "k-1"})
    other = await client.post(path, json={"prompt": "Other."}, headers=header | {"Idempotency-Key": "k-1"})

    assert (first.status_code, again.status_code, two.status_code, other.status_code) == (201, 200, 422, 422)
    assert first.json()["id"] == again.json()["id"]
    assert (again.json()["created"], again.headers["Idempotent-Replayed"]) == (False, "true")
    assert "prompt" in other.json()["detail"]


async def test_a_change_of_an_assessment_needs_the_version_that_was_read(client, world):
    """428 without it, 412 with both versions if it is stale, and the new version in `ETag`."""
    header = await world.key("alice", "assessments")
    path = "/v1/assessments/a-1"
    read = await client.get(path, headers=header)

    async def change(version: str | None, **body):
        more = {} if version is None else {"If-Match": version}
        return await client.patch(path, json={"state": "pending"} | body, headers=header | more)

    missing, wrong = await change(None), await change("7")
    first = await change(read.headers["ETag"], reason="first")
    stale = await change(read.headers["ETag"], reason="second")
    any_version = await change("*")

    assert read.headers["ETag"] == '"1"'
    assert [one.status_code for one in (missing, wrong, first, stale, any_version)] == [428, 422, 200, 412, 200]
    assert first.headers["ETag"] == '"2"'
    assert "2" in stale.json()["detail"]
    assert "1" in stale.json()["detail"]
    audit = (await client.get(f"{path}/audit", headers=header)).json()["items"]
    assert [one["change_reason"] for one in audit][1:] == ["first", None]
    assert all("as key:" in one["changed_by"] for one in audit[1:])


async def test_an_assessment_is_created_once(client, world):
    """The same request again is the same assessment; another one with its id is refused."""
    header = await world.key("alice", "assessments")
    body = {"assessment_id": "n-1", "request": REQUEST}

    first, again = [await client.post("/v1/assessments", json=body, headers=header) for _ in range(2)]
    other = await client.post("/v1/assessments", json=body | {"request": REQUEST | {"source": "x"}}, headers=header)

    assert (first.status_code, again.status_code, other.status_code) == (201, 200, 422)
    assert first.json()["job_id"] == again.json()["job_id"]


async def test_a_tenant_cannot_name_another_owner(client, world):
    """The database is never told another user than that of the key."""
    header = await world.key("bob", "assessments")
    alice = str(world.users["alice"])

    for path in ("/v1/assessments", "/v1/assessments/a-1", "/v1/assessments/a-1/audit", "/v1/assessments/a-1/metrics"):
        answer = await client.get(path, params={"owner": alice}, headers=header)
        assert (answer.status_code, "a-1" in answer.text) == (403, "a-1" in path), answer.text
    operator = await world.key(None, "assessments:read", "operate:read")
    assert (await client.get("/v1/assessments/a-1", params={"owner": alice}, headers=operator)).status_code == 200


async def test_names_of_projects_are_unique(client, world):
    """Mine again is mine; another user's is a conflict; a name like an id is refused."""
    alice, bob = await world.key("alice", "operations"), await world.key("bob", "operations")

    async def create(header, name):
        return (await client.post("/v1/projects", json={"name": name}, headers=header)).status_code

    assert [await create(alice, "corpus"), await create(bob, "corpus"), await create(bob, str(uuid.uuid4()))] == [
        200,
        409,
        422,
    ]
    assert (await client.post("/v1/projects", json={"name": "b"}, headers=bob)).status_code == 201
    path = f"/v1/projects/{world.names['project']}"
    assert (await client.patch(path, json={"name": "b"}, headers=alice | {"If-Match": "*"})).status_code == 409


async def test_a_review_names_the_user_of_the_key(client, world, psql):
    """Whatever name the request gives."""
    header = await world.key("alice", "operations")
    path = f"/v1/projects/{world.names['project']}/records"

    body = {"record_ids": [str(world.names["record"])], "reviewer": "somebody"}
    assert (await client.post(f"{path}/review", json=body, headers=header)).status_code == 200
    missing = await client.post(f"{path}/review", json={"record_ids": [str(uuid.uuid4())]}, headers=header)

    assert missing.status_code == 404
    record = (await client.get(f"{path}/{world.names['record']}", headers=header)).json()["record"]
    assert (record["has_been_reviewed"], record["reviewed_by"]) == (True, "alice@example.test")


async def test_nobody_rates_for_others(client, world):
    """A user's key rates for its user; an operator's key names the person."""
    path = f"/v1/projects/{world.names['project']}/ratings"
    body = {"record_id": str(world.names["record"]), "realism": 5, "quality": 6}
    bob, operator = await world.key("bob", "operations"), await world.key(None, "operations", "operate")

    answers = [
        await client.post(path, json=body, headers=bob),
        await client.post(path, json=body | {"user": str(world.users["alice"])}, headers=bob),
        await client.post(path, json=body, headers=operator),
        await client.post(path, json=body | {"user": "ana"}, headers=operator),
        await client.post(path, json=body | {"realism": 8}, headers=bob),
        await client.post(path, json=body | {"record_id": str(uuid.uuid4())}, headers=bob),
    ]

    assert [answer.status_code for answer in answers] == [200, 403, 422, 200, 422, 404]
    assert answers[0].json()["user"] == str(world.users["bob"])
    listed = (await client.get(path, headers=bob)).json()["items"]
    assert [one["user"] for one in listed] == ["ana", str(world.users["bob"])]


async def test_only_an_admin_writes_bonus_windows(client, world):
    """Every approved user reads them."""
    alice, root = await world.key("alice", "operations"), await world.key("root", "operations")

    refused = await client.post("/v1/bonus-windows", json=WINDOW, headers=alice)
    made = await client.post("/v1/bonus-windows", json=WINDOW, headers=root)
    backwards = await client.post("/v1/bonus-windows", json=WINDOW | {"end": WINDOW["start"]}, headers=root)

    assert (refused.status_code, made.status_code, backwards.status_code) == (403, 201, 422)
    assert made.json()["created_by"] == str(world.users["root"])
    assert (await client.get(made.headers["Location"], headers=alice)).json() == made.json()


async def test_a_text_is_compared_by_the_model_that_embeds(client, world, psql):
    """The text is embedded in this process, and its call is in the ledger."""
    header = await world.key("alice", "operations:read")
    path = f"/v1/projects/{world.names['project']}/similar"

    found = await client.get(path, params={"text": "an apology"}, headers=header)
    both = await client.get(path, params={"text": "x", "record": str(world.names["record"])}, headers=header)
    unknown = await client.get(path, params={"record": str(uuid.uuid4())}, headers=header)

    assert (found.status_code, both.status_code, unknown.status_code) == (200, 422, 404)
    assert found.json()["items"] == []  # the record's vector is of another model


async def test_a_job_explains_itself_to_its_tenant(client, world):
    """Also that no dispatcher leads, which a tenant may not read for itself."""
    header = await world.key("alice", "jobs:read")

    answer = await client.get(f"/v1/jobs/{world.names['job']}/why", headers=header)

    assert answer.status_code == 200
    assert answer.json()["summary"]
    assert answer.json()["stage"] == "scoring.score"
