"""Who changes an object says which version of it: of several changes of one version, one wins."""

import asyncio
from typing import Any

import pytest

from workers.runtime.versions import version_at

PROVIDER = {"name": "here", "kind": "openai", "api_key": "a-key-that-nobody-may-read-17"}
SCHEDULE = {"name": "nightly", "action": "prune", "cron": "0 3 * * *"}
# The path, a key's user and scope, and two changes.
CHANGED: dict[str, tuple[str, str | None, str, dict[str, Any], dict[str, Any]]] = {
    "project": ("/v1/projects/{project}", "alice", "operations", {"name": "one"}, {"name": "two"}),
    "window": ("/v1/bonus-windows/{window}", "root", "operations", {"tasks": 5}, {"tasks": 6}),
    "schedule": ("/v1/schedules/nightly", None, "operate", {"cron": "0 4 * * *"}, {"cron": "0 5 * * *"}),
    "provider": ("/v1/llm/providers/here", None, "operate", {"kind": "compatible", "base_url": "https://a.example/v1",
                 "api_key": "another-key-18"}, {"api_key": "a-third-key-19"}),
}  # fmt: skip


@pytest.fixture
async def operators_rows(client, world):
    """A provider and a schedule."""
    operator = await world.key(None, "operate")
    for path, body in (("/v1/llm/providers", PROVIDER), ("/v1/schedules", SCHEDULE)):
        made = await client.post(path, json=body, headers=operator)
        assert made.status_code == 201, made.text


async def read_version(client, path: str, header: dict[str, str]) -> str:
    """Return the value of If-Match for the object as it is now."""
    if path.startswith("/v1/llm/providers/"):
        items = (await client.get("/v1/llm/providers", headers=header)).json()["items"]
        return next(f'"{one["version"]}"' for one in items if one["name"] == "here")
    found: str = (await client.get(path, headers=header)).headers["etag"]
    return found


@pytest.mark.usefixtures("operators_rows")
@pytest.mark.parametrize("kind", CHANGED)
async def test_a_change_needs_the_version_that_was_read(client, world, kind):
    """428 without one, 412 with an old one, which names both; the answer has the new one."""
    path, user, scope, first, second = CHANGED[kind]
    path, header = path.format_map(world.names), await world.key(user, scope)
    version = await read_version(client, path, header)

    missing = await client.patch(path, json=first, headers=header)
    done = await client.patch(path, json=first, headers=header | {"If-Match": version})
    stale = await client.patch(path, json=second, headers=header | {"If-Match": version})
    again = await client.patch(path, json=second, headers=header | {"If-Match": done.headers["etag"]})
    anyhow = await client.patch(path, json=first, headers=header | {"If-Match": "*"})

    statuses = [answer.status_code for answer in (missing, done, stale, again, anyhow)]
    assert statuses == [428, 200, 412, 200, 200], [missing.text, done.text, stale.text, again.text, anyhow.text]
    assert version.strip('"') in stale.json()["detail"]
    assert done.headers["etag"].strip('"') in stale.json()["detail"]
    assert await read_version(client, path, header) == anyhow.headers["etag"]


@pytest.mark.usefixtures("operators_rows")
@pytest.mark.parametrize("kind", CHANGED)
async def test_of_ten_changes_of_one_version_one_wins(client, world, kind):
    """The others learn that they were late."""
    path, user, scope, first, _ = CHANGED[kind]
    path, header = path.format_map(world.names), await world.key(user, scope)
    version = await read_version(client, path, header)

    answers = await asyncio.gather(
        *(client.patch(path, json=first, headers=header | {"If-Match": version}) for _ in range(10))
    )

    assert sorted(answer.status_code for answer in answers) == [200, *[412] * 9]


def test_a_row_without_a_time_has_a_version() -> None:
    """Its time cannot be read, or it was never changed."""
    assert version_at(None) == 0
