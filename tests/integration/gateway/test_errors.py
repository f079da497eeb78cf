"""Every error is a problem with one line; nothing of the inside reaches a client."""

import json

import pytest

from gateway.bodies import MAX_JSON_BYTES


def problem_in(answer, status: int, name: str) -> dict[str, object]:
    """Return the problem of ``answer``, which must be complete."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, object] = answer.json()
    assert document.keys() >= {"type", "title", "status", "detail", "instance", "request_id", "errors"}
    assert str(document["type"]).endswith(name)
    assert document["status"] == status
    assert document["request_id"] == answer.headers["x-request-id"]
    assert "\n" not in str(document["detail"])
    return document


@pytest.mark.parametrize(
    ("method", "path", "status", "name"),
    [
        ("GET", "/nothing", 404, "not-found"),
        ("GET", "/v1/stages/", 404, "not-found"),
        ("DELETE", "/v1/stages", 405, "method-not-allowed"),
        ("GET", "/v1/stages?x=%00", 400, "malformed"),
        ("GET", "/v1/sta%00ges", 400, "malformed"),
        ("GET", "/docs/..%2f..%2fserver.py", 404, "not-found"),
        ("GET", "/docs/index.html", 404, "not-found"),
        ("GET", "/problems/x", 404, "not-found"),
    ],
)
async def test_wrong_paths_and_methods(client, method, path, status, name):
    """The router's own errors are problems too."""
    problem_in(await client.request(method, path), status, name)


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/stages", "GET, HEAD"),
        ("/v1/jobs", "GET, HEAD, POST"),
        ("/v1/assessments/a-1", "GET, HEAD, PATCH"),
        ("/v1/llm/prices", "DELETE, GET, HEAD, PUT"),
        ("/v1/stages/scoring.score/pause", "POST"),
        ("/healthz", "GET, HEAD"),
    ],
)
async def test_a_wrong_method_is_told_all_methods_of_the_path(client, path, allowed):
    """Not only those of the first route that has the path."""
    for method in ("OPTIONS", "TRACE", "PROPFIND"):
        answer = await client.request(method, path)

        problem_in(answer, 405, "method-not-allowed")
        assert answer.headers["allow"] == allowed


@pytest.mark.parametrize(
    "text", ["0.5", "1700000000", "-5", "1e9", "1e-9", "20:00", "2030-01-01", "2030-01-01T00:00:00"]
)
async def test_a_time_is_a_text_with_a_time_zone(client, text):
    """Not a number of seconds, which pydantic would read too."""
    answer = await client.get("/v1/llm/spend", params={"until": text})

    problem_in(answer, 422, "invalid")
    assert answer.json()["errors"][0]["field"] == "until"


@pytest.mark.parametrize(
    ("body", "headers", "status", "name"),
    [
        (b'{"name": "x",}', {}, 400, "malformed"),
        (b'{"name": "x", "name": "y"}', {}, 400, "malformed"),
        (b"\xff\xfe", {}, 400, "malformed"),
        (b'{"name": "", "nmae": 1}', {}, 422, "invalid"),
        (b"[]", {}, 422, "invalid"),
        (b'"text"', {}, 422, "invalid"),
        (b"", {}, 422, "invalid"),
        (b"{}", {"Content-Encoding": "gzip"}, 415, "unsupported-media-type"),
        (b"{}", {"Content-Type": "text/plain"}, 415, "unsupported-media-type"),
        (b"name=x", {"Content-Type": "application/x-www-form-urlencoded"}, 415, "unsupported-media-type"),
        (b"{}", {"Content-Type": "application/json; charset=utf-16"}, 422, "invalid"),
        (b'{"inside": "' + b"x" * MAX_JSON_BYTES + b'"}', {}, 413, "too-large"),
    ],
)
async def test_wrong_bodies(client, body, headers, status, name):
    """Each is refused before anything of it is used."""
    answer = await client.post("/test/things", content=body, headers={"Content-Type": "application/json"} | headers)

    problem_in(answer, status, name)


async def test_a_body_of_unknown_length_is_bounded_too(client):
    """A client that sends chunks cannot fill the memory."""

    async def chunks():
        yield b'{"inside": "'
        for _ in range(MAX_JSON_BYTES // 65_536 + 1):
            yield b"x" * 65_536

    answer = await client.post("/test/things", content=chunks(), headers={"Content-Type": "application/json"})

    problem_in(answer, 413, "too-large")


async def test_a_route_may_accept_more(client):
    """Its limit is its own."""
    body = json.dumps({"name": "x", "inside": "x" * 2_000_000})

    answer = await client.post("/test/large", content=body, headers={"Content-Type": "application/json"})

    assert answer.json() == {"length": 2_000_000}


async def test_every_field_of_an_invalid_body_is_named(client):
    """With the rule and the value."""
    answer = await client.post("/test/things", json={"name": "x" * 21, "number": "many", "color": "red"})

    found = problem_in(answer, 422, "invalid")
    assert found["errors"] == [
        {"field": "name", "rule": "must have at most 20 characters", "value": repr("x" * 21), "remedy": None},
        {
            "field": "number",
            "rule": "must be a valid integer, unable to parse string as an integer",
            "value": "'many'",
            "remedy": None,
        },
        {"field": "color", "rule": "is not a field", "value": "'red'", "remedy": None},
    ]


async def test_an_error_of_the_server_says_nothing_about_the_inside(client):
    """The reason is in the log under the request id."""
    answer = await client.get("/test/boom", headers={"X-Request-Id": "order-66"})

    found = problem_in(answer, 500, "internal")
    assert "secret" not in answer.text
    assert found["request_id"] == "order-66"


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "é".encode().decode("latin-1"), "<script>", 'a"b'])
async def test_a_request_id_that_is_no_short_word_is_replaced(client, given):
    """It is written into logs and into the history."""
    answer = await client.get("/healthz", headers={"X-Request-Id": given.encode("latin-1")})

    assert len(answer.headers["x-request-id"]) == 32


async def test_no_key_and_a_wrong_key_get_the_same_kind_of_answer(client):
    """The answer names the scheme."""
    for headers in ({"Authorization": ""}, {"Authorization": "Bearer nope"}, {"Authorization": "Basic eDp5"}):
        answer = await client.get("/v1/stages", headers=headers)

        problem_in(answer, 401, "unauthenticated")
        assert answer.headers["www-authenticate"] == "Bearer"


async def test_every_answer_has_the_security_headers(client):
    """Data is never a page, an error neither; only `/docs` may run scripts, and only our own."""
    for path in ("/healthz", "/nothing", "/test/boom"):
        headers = (await client.get(path)).headers
        assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert not {name for name in headers if name.startswith("access-control-")}
    page = await client.get("/docs")
    assert "script-src 'self';" in page.headers["content-security-policy"]
    assert "http" not in page.text.replace("<!doctype html>", "")


async def test_head_answers_like_get_without_a_body(client):
    """Also for an error."""
    for path in ("/v1/stages", "/nothing", "/docs"):
        head, get = await client.head(path), await client.get(path)

        assert (head.status_code, head.content) == (get.status_code, b"")
        assert head.headers["content-type"] == get.headers["content-type"]


async def test_the_description_is_complete(client):
    """Each operation has an id, a tag and problems; each with a key names its scheme."""
    document = (await client.get("/openapi.json")).json()

    operations = [
        (path, operation)
        for path, methods in document["paths"].items()
        for operation in methods.values()
        if not path.startswith("/test/")
    ]
    assert document["openapi"].startswith("3.1")
    assert "/v1/stages" in document["paths"]
    for path, operation in operations:
        assert operation["operationId"].isidentifier(), path
        assert operation["tags"], path
        assert "application/problem+json" in operation["responses"]["default"]["content"], path
        assert ("security" in operation) == path.startswith("/v1/"), path
    assert "ValidationError" not in document["components"]["schemas"]
    ids = [operation["operationId"] for _, operation in operations]
    assert len(set(ids)) == len(ids)
