"""What operators' routes promise beyond their table: secrets stay inside, changes name who made them."""

import json

import pytest

from tests.support.callers import bearer

SECRET = "plain words, no known shape"
KEY = "a-key-that-nobody-may-read-17"


async def test_no_answer_and_no_error_has_a_providers_key(client, world, psql):
    """Not when it is stored, listed or changed, nor in the refusal of a request that holds it."""
    header = await world.key(None, "operate") | {"If-Match": "*"}
    body = {"name": "here", "kind": "openai", "api_key": KEY}

    answers = [
        await client.post("/v1/llm/providers", json=body, headers=header),
        await client.get("/v1/llm/providers", headers=header),
        await client.patch("/v1/llm/providers/here", json={"api_key": KEY + "x"}, headers=header),
        await client.patch("/v1/llm/providers/here", json={"base_url": "https://other.test/v1"}, headers=header),
        await client.post("/v1/llm/providers", json=body | {"name": "b", "api_key": [KEY]}, headers=header),
        await client.post("/v1/llm/providers", json=body | {"name": "b", "api_key": KEY + " é"}, headers=header),
        await client.post("/v1/llm/providers", json=body | {"name": "b", "apikey": KEY}, headers=header),
        await client.post("/v1/llm/providers", json=body | {"kind": 7}, headers=header),
    ]

    assert [answer.status_code for answer in answers] == [201, 200, 200, 422, 422, 422, 422, 422]
    assert not [answer.text for answer in answers if KEY in answer.text]
    assert answers[0].json()["has_key"] is True
    assert KEY not in str(psql.execute("SELECT api_key FROM llm.providers").fetchall())


async def test_no_answer_and_no_error_has_a_secret_setting(client, world, psql):
    """A list says that it is set."""
    header = await world.key(None, "admin")

    answers = [
        await client.put("/v1/settings", json={"values": {"openai_key": KEY}}, headers=header),
        await client.get("/v1/settings", headers=header),
        await client.put("/v1/settings", json={"values": {"openai_key": SECRET}}, headers=header),
        await client.put("/v1/settings", json={"values": {"openai_key": [KEY]}}, headers=header),
        await client.put("/v1/settings", json={"values": {"llm_model": "x y"}}, headers=header),
        await client.put("/v1/settings", json={"values": {"color": "red"}}, headers=header),
    ]

    assert [answer.status_code for answer in answers] == [200, 200, 422, 422, 422, 422]
    assert not [answer.text for answer in answers if KEY in answer.text or SECRET in answer.text]
    assert answers[1].json()["items"][0]["value"] == "(set, encrypted)"
    assert KEY not in str(psql.execute("SELECT value FROM operations.system_settings").fetchall())


async def test_a_key_is_shown_once_and_works_until_it_is_revoked(client, world):
    """The list has only its beginning."""
    admin = await world.key(None, "admin")
    body = {"name": "orders", "scopes": ["scoring:read"], "acts_for": str(world.users["alice"])}

    made = (await client.post("/v1/keys", json=body, headers=admin)).json()
    listed = await client.get("/v1/keys", headers=admin)
    used = await client.get("/v1/profiles", headers=bearer(made["secret"]))
    revoked = await client.post(f"/v1/keys/{made['key']['id']}/revoke", json={"reason": "lost"}, headers=admin)
    again = await client.post(f"/v1/keys/{made['key']['id']}/revoke", headers=admin)

    assert (used.status_code, revoked.status_code, again.status_code) == (200, 200, 409)
    assert made["secret"] not in listed.text
    assert (revoked.json()["state"], revoked.json()["revoke_reason"]) == ("revoked", "lost")


@pytest.mark.parametrize(
    "body",
    [
        {"name": "x", "scopes": []},
        {"name": "x", "scopes": ["everything"]},
        {"name": "x", "scopes": ["scoring"]},
        {"name": "a b", "scopes": ["operate"]},
        {"name": "x", "scopes": ["operate"], "expires_at": "2020-01-01T00:00:00Z"},
        {"name": "x", "scopes": ["operate"], "expires_at": 4_000_000_000},
    ],
)
async def test_a_key_that_breaks_a_rule_is_not_made(client, world, body):
    """The problem names the field."""
    answer = await client.post("/v1/keys", json=body, headers=await world.key(None, "admin"))

    assert answer.status_code == 422, answer.text


async def test_a_pause_names_the_key_that_made_it(client, world, psql):
    """In the row that people read."""
    header = await world.key(None, "operate")

    await client.post("/v1/stages/scoring.score/pause", headers=header)
    unknown = await client.post("/v1/stages/scoring.scorn/pause", headers=header)
    stages = (await client.get("/v1/stages", headers=header)).json()["items"]

    [paused] = [one for one in stages if one["paused_at"]]
    assert paused["stage"] == "scoring.score"
    assert "key:" in paused["paused_by"]
    assert unknown.status_code in {404, 422}


async def test_a_schedule_runs_now_as_a_job(client, world, psql):
    """A bad cron, an unknown stage and a payload that the stage refuses are refused at the door."""
    header = await world.key(None, "operate")
    payload = {"profile_id": str(world.names["profile"]), "prompt": "Judge."}
    body = {"name": "every day", "cron": "0 3 * * *", "stage": "scoring.score", "payload": payload}

    made = await client.post("/v1/schedules", json=body, headers=header)
    ran = await client.post("/v1/schedules/every%20day/run", headers=header)
    refused = [
        await client.post("/v1/schedules", json=body | {"name": "b", "cron": "99 * * * *"}, headers=header),
        await client.post("/v1/schedules", json=body | {"name": "b", "stage": "no.stage"}, headers=header),
        await client.post("/v1/schedules", json=body | {"name": "b", "payload": {"x": 1}}, headers=header),
        await client.post("/v1/schedules", json=body | {"name": "b", "action": "prune"}, headers=header),
    ]
    twice = await client.post("/v1/schedules", json=body, headers=header)

    assert (made.status_code, ran.status_code, twice.status_code) == (201, 200, 409)
    assert {answer.status_code for answer in refused} <= {404, 422}
    job = psql.execute("SELECT prompt FROM scoring.scoring_jobs WHERE id = %s", [ran.json()["job_id"]]).fetchone()
    assert job == {"prompt": "Judge."}


async def test_a_maintenance_action_runs_with_an_operators_rights(client, world):
    """The gateway's own login may change nothing."""
    header = await world.key(None, "operate")
    body = {"name": "tidy", "cron": "0 3 * * *", "action": "prune"}

    await client.post("/v1/schedules", json=body, headers=header)
    ran = await client.post("/v1/schedules/tidy/run", headers=header)

    assert ran.status_code == 200, ran.text
    assert ran.json()["action"] == "prune"
    assert ran.json()["changed"]


async def test_a_replayed_message_says_what_became_of_it(client, world, psql):
    """Refused again with the reason; its content is shown to operators as text."""
    header = await world.key(None, "operate")
    message = str(world.names["dead"])

    shown = (await client.get(f"/v1/dead/{message}", headers=header)).json()
    report = (await client.post("/v1/dead/replay", json={"message_ids": [message]}, headers=header)).json()

    assert json.loads(shown["body"])[0] == ["proving.plain", {}]
    assert [(one["id"], one["outcome"]) for one in report["items"]] == [(message, "refused")]
    assert report["items"][0]["reason"]


async def test_spend_adds_up_the_ledger(client, world):
    """By several dimensions, in an IANA zone; unknown words and zones are refused."""
    header = await world.key(None, "operate:read")

    found = await client.get("/v1/llm/spend", params={"by": ["model", "day"], "zone": "Asia/Tokyo"}, headers=header)
    wrong = [
        await client.get("/v1/llm/spend", params={"by": "color"}, headers=header),
        await client.get("/v1/llm/spend", params={"zone": "Mars/North"}, headers=header),
        await client.get("/v1/llm/spend", params={"since": "yesterday"}, headers=header),
    ]

    assert found.status_code == 200, found.text
    assert found.json()["total"]["calls"] == 1
    assert float(found.json()["total"]["usd"]) == 0.5
    assert [answer.status_code for answer in wrong] == [422, 422, 422]
