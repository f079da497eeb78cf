"""GET /v1/stages."""

from tests.support.gateway import SERVICE


async def test_an_operator_sees_every_stage(client):
    """Durations are numbers of seconds, as their names say."""
    answer = await client.get("/v1/stages")

    assert answer.status_code == 200
    assert answer.json()["next"] is None
    assert {"stage", "ready", "oldest_wait_seconds"} <= answer.json()["items"][0].keys()


async def test_another_scope_is_refused_by_name(client):
    """The problem names the scope that is missing."""
    answer = await client.get("/v1/stages", headers={"Authorization": f"Bearer {SERVICE}"})

    assert answer.status_code == 403
    assert answer.headers["content-type"] == "application/problem+json"
    assert "'operate:read'" in answer.json()["detail"]
