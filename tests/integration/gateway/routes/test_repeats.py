"""Repeats of idempotency keys under the gateway's own login, which has the rights of a service and no more."""

import json


async def test_a_repeated_key_is_known_in_every_mode(client, world):
    """One job, a batch of all, a batch of each: the first job, whatever repeats it."""
    key = await world.key("alice", "jobs:read", "jobs:write")
    payload = {"profile_id": str(world.names["profile"]), "prompt": "Judge."}
    job = {"stage": "scoring.score", "payload": payload, "idempotency_key": "k"}

    first = await client.post("/v1/jobs", json=job, headers=key)
    again = await client.post("/v1/jobs", json=job, headers=key)
    batch = await client.post("/v1/jobs/batch", json=[job, job], headers=key)
    each = await client.post("/v1/jobs/batch?mode=each", json=[job], headers=key)

    known = {"id": first.json()["id"], "created": False}
    assert (first.status_code, again.status_code) == (201, 200), again.text
    assert again.json()["id"] == known["id"]
    assert batch.json() == {"jobs": [known, known], "created": 0}
    assert json.loads(each.text) == {"index": 0, **known}
