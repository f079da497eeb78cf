"""Every operation of the description: it works, it needs its scope, others get what they may, odd values are refused.

An operation that is missing in the table fails the first test.
"""

import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.integration.gateway.routes.conftest import USER_SCOPES
from tests.support.route_table import TABLE, Case
from workers.runtime.api_keys import SCOPES

# Routes with tests of their own: paths begin with these.
TESTED_ELSEWHERE = ("/healthz", "/readyz", "/metrics", "/v1/jobs", "/v1/events", "/v1/callbacks")
EVENTS = "/events"


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the path, the method and the description of each operation that the table must have."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            known = path.startswith(TESTED_ELSEWHERE) and operation["operationId"] != "explain_job"
            if not known and not path.endswith(EVENTS):
                yield path, method, operation


def test_the_table_has_every_operation_with_its_scope(app):
    """And nothing else; the scope is the one that the description names."""
    described = {one["operationId"]: one["description"] for _, _, one in operations(app.openapi())}

    assert described.keys() == {case.operation for case in TABLE}
    wrong = [case.operation for case in TABLE if f"scope `{case.scope}`" not in described[case.operation]]
    assert wrong == []


async def test_every_operation_works_with_exactly_its_scope(client, world):
    """In the order of the table, with a key that has no other scope."""
    failed = {}
    for case in TABLE:
        answer = await client.request(**with_key(case, world, await world.key(case.user, case.scope)))
        if answer.status_code != case.status:
            failed[case.operation] = (answer.status_code, answer.text)
    assert failed == {}


def with_key(case: Case, world: Any, header: dict[str, str], **names: Any) -> dict[str, Any]:
    request = case.request(world.names | names)
    request["headers"] |= header
    return request


async def test_without_a_key_nothing_answers(client, world):
    """401 before anything else is looked at."""
    answers = {case.operation: (await client.request(**case.request(world.names))).status_code for case in TABLE}

    assert {name: status for name, status in answers.items() if status != 401} == {}


async def test_every_other_scope_is_refused_by_name(client, world):
    """A key with all scopes but the needed one; a reader's key for what is written."""
    failed = {}
    for case in TABLE:
        named = case.scope.removesuffix(":read")
        all_scopes = SCOPES if case.scope == "admin" else USER_SCOPES
        others = tuple(scope for scope in all_scopes if scope.removesuffix(":read") != named and scope != "admin")
        # Without a scope of operators a key acts for a user.
        user = case.user or (None if {"operate", "operate:read"} & set(others) else "alice")
        keys = [await world.key(user, *others)]
        if not case.scope.endswith(":read") and f"{case.scope}:read" in SCOPES:
            keys.append(await world.key(case.user, f"{case.scope}:read"))
        for header in keys:
            answer = await client.request(**with_key(case, world, header))
            if answer.status_code != 403 or f"'{case.scope}'" not in answer.json()["detail"]:
                failed[case.operation] = (answer.status_code, answer.text)
    assert failed == {}


async def test_another_tenants_object_is_like_a_missing_one(client, world):
    """Bob asks for what is Alice's: byte for byte the answer for an id that nobody has."""
    failed = {}
    missing = {name: uuid.uuid4() for name in world.names} | {"assessment": "a-0"}
    for case in TABLE:
        if case.others != "missing":
            continue
        header = await world.key("bob", *USER_SCOPES)
        hers = await client.request(**with_key(case, world, header))
        nobodys = await client.request(**with_key(case, world, header, **missing))
        if not (hers.status_code == nobodys.status_code == 404) or same(hers, world.names) != same(nobodys, missing):
            failed[case.operation] = (hers.status_code, hers.text, nobodys.text)
    assert failed == {}


def same(answer: Any, names: dict[str, Any]) -> dict[str, Any]:
    """Return the problem with the names of the request taken out."""
    text = answer.text
    for name, value in names.items():
        text = text.replace(str(value), f"<{name}>")
    return {"text": text.replace(answer.headers["x-request-id"], "<request>")}


async def test_a_user_reads_the_projects_of_others_and_changes_none(client, world, psql):
    """The rule of the seed: approved users read everything of operations, owners and admins write."""
    failed = {}
    for case in TABLE:
        expected = {"readable": case.status, "forbidden": 403}.get(case.others or "")
        if expected is not None:
            answer = await client.request(**with_key(case, world, await world.key("bob", "operations")))
            if answer.status_code != expected:
                failed[case.operation] = (answer.status_code, answer.text)
    assert failed == {}
    assert psql.execute("SELECT name FROM operations.projects WHERE id = %s", [world.names["project"]]).fetchone()


async def test_a_user_who_is_not_approved_sees_nothing(client, world):
    """Every project and window is like a missing one."""
    failed = {}
    for case in TABLE:
        if case.others in {"readable", "forbidden"}:
            answer = await client.request(**with_key(case, world, await world.key("pat", "operations")))
            if answer.status_code != 404:
                failed[case.operation] = (answer.status_code, answer.text)
    assert failed == {}


ODD = (
    "", " ", "%00", "\x00", "x" * 5_000, "1e9", "-1", str(10**40), "0x10", "1_000", "\u0663", "null", "[]", "'; --",
    "é" * 300, "\ud7ff", "2030-13-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "infinity",
    str(uuid.UUID(int=0)),
)  # fmt: skip


async def test_odd_values_of_parameters_are_refused_in_one_line(client, app, world):
    """No value of a path, a query or a header makes an error of the server."""
    failed = []
    header = await world.key(None, *SCOPES)
    for path, method, operation in operations(app.openapi()):
        for parameter in operation.get("parameters", ()):
            for value in ODD:
                request = odd_request(path, parameter, value)
                request["headers"] = header | request.get("headers", {})
                answer = await client.request(method.upper(), **request)
                if answer.status_code >= 500 or (answer.status_code >= 400 and "\n" in answer.json()["detail"]):
                    failed.append((operation["operationId"], parameter["name"], value[:40], answer.status_code))
    assert failed == []


def odd_request(path: str, parameter: dict[str, Any], value: str) -> dict[str, Any]:
    """Return a request with an odd value of one parameter; other names of the path are those of nothing."""
    filled = path
    request: dict[str, Any] = {}
    if parameter["in"] == "path":
        filled = path.replace("{" + parameter["name"] + "}", quoted(value))
    elif parameter["in"] == "query":
        request["params"] = {parameter["name"]: value}
    else:
        request["headers"] = {parameter["name"]: value.encode("ascii", "replace").decode().replace("\x00", "")}
    while "{" in filled:
        filled = filled[: filled.index("{")] + str(uuid.UUID(int=1)) + filled[filled.index("}") + 1 :]
    return {"url": filled} | request


def quoted(value: str) -> str:
    return quote(value, safe="%") or "%20"


ODD_BODIES: tuple[Any, ...] = (
    {}, [], "x", 1, None, True, {"x": 1}, {"name": 1}, {"name": ""}, {"name": "x" * 10_000}, {"name": "\u202e"},
    {"values": {"openai_key": 7}}, {"limits": [None]}, {"record_ids": ["x"]},
)  # fmt: skip


async def test_odd_bodies_are_refused_in_one_line(client, app, world):
    """Wrong types, unknown fields and empty values."""
    failed = []
    header = await world.key(None, *SCOPES)
    for path, method, operation in operations(app.openapi()):
        body = operation.get("requestBody")
        if body is None or "application/json" not in body["content"]:
            continue
        url = odd_request(path, {"name": "", "in": "query"}, "")["url"]
        for value in ODD_BODIES:
            answer = await client.request(method.upper(), url, json=value, headers=header | {"If-Match": '"1"'})
            if answer.status_code >= 500:
                failed.append((operation["operationId"], value, answer.text))
    assert failed == []


async def test_a_parameter_is_sent_once(client, app, world):
    """Of two only one would count. Where several count, the description says so."""
    wrong = []
    header = await world.key(None, *SCOPES)
    for path, method, operation in operations(app.openapi()):
        for parameter in operation.get("parameters", ()):
            if parameter["in"] == "query":
                url = odd_request(path, {"name": "", "in": "query"}, "")["url"]
                query = "&".join(f"{parameter['name']}={value}" for value in ("zz", "zz"))
                answer = await client.request(method.upper(), f"{url}?{query}", headers=header)
                is_refused = "must be sent once" in answer.text
                if is_refused == (parameter["schema"].get("type") == "array"):
                    wrong.append((operation["operationId"], parameter["name"], answer.text))
    assert wrong == []


@pytest.mark.parametrize("path", ["/v1/profiles", "/v1/projects", "/v1/dead", "/v1/llm/calls"])
async def test_an_unknown_filter_is_refused(client, world, path):
    """A misspelt one would return everything."""
    answer = await client.get(path, params={"stauts": "failed"}, headers=await world.key(None, *SCOPES))

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["rule"] == "is not a parameter"
