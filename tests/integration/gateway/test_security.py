"""What an attacker sends: the answer is a refusal, and nothing of another tenant or of the inside.

The other tests of the security of the gateway, by what they try:

- no key, another scope, another tenant's id, for every operation: ``routes/test_route_table.py``, and for jobs, streams
  and callbacks ``test_jobs.py``, ``test_job_streams.py`` and ``test_callbacks.py``
- wrong, expired and revoked keys, and odd ``Authorization`` headers: ``callers/test_keys.py``
- expired and foreign tokens, ``alg=none``, a public key as a secret: ``tests/unit/gateway/test_tokens.py`` and
  ``callers/test_token_users.py``
- routes without checks, and statements that change their role: ``callers/test_sessions.py`` and
  ``callers/test_gateway_role.py``
- large, slow and endless bodies, slow readers, smuggled requests: ``test_server.py``, ``test_errors.py``
- callbacks to addresses inside the network, in every spelling: ``tests/unit/notifications/test_callback_rules.py`` and
  ``tests/unit/outbound/test_addresses.py``; redirects and names that turn inside (DNS rebinding):
  ``tests/integration/notifications/test_deliver_notice.py`` and ``tests/integration/outbound/test_safe_http.py``
"""

import socket
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.support.gateway import EVERYTHING, OPERATOR, OTHER, OTHER_TENANT, READER, SERVICE, open_client

# What the gateway shows to everybody.
OPEN = {"/healthz", "/readyz"}
# Routes that `routes/test_route_table.py` leaves to others.
JOBS = ("/v1/jobs", "/v1/events", "/v1/stages/{stage}/events", "/v1/projects/{project_id}/events", "/v1/callbacks")
METACHARACTERS = (
    "' OR '1'='1",
    "'; DROP TABLE scoring.scoring_jobs; --",
    '" OR ""="',
    "%' --",
    "\\'; --",
    "$$; --",
    "%",
)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def operations(client: Any) -> list[tuple[str, str, dict[str, Any]]]:
    """Return the method, the path and the description of every operation."""
    document = (await client.get("/openapi.json")).json()
    return [
        (method.upper(), path, one)
        for path, methods in document["paths"].items()
        for method, one in methods.items()
        if not path.startswith("/test/")
    ]


def filled(path: str) -> str:
    """Return a path with ids of nothing."""
    while "{" in path:
        path = path[: path.index("{")] + str(uuid.UUID(int=1)) + path[path.index("}") + 1 :]
    return path


# ── no key, another scope ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("body", [b"{", b'{"x": 1}', b"x" * 2_000_000])
async def test_without_a_key_every_operation_is_401_whatever_is_sent(client, body):
    """Before the body, its type and its size are looked at: they tell nothing about the interface."""
    del client.headers["authorization"]
    for method, path, _ in await operations(client):
        if path not in OPEN:
            answer = await client.request(method, filled(path), content=None if method == "GET" else body)
            assert answer.status_code == 401, (method, path, answer.text)
            assert answer.json()["type"] == "/problems/unauthenticated"


async def test_of_jobs_and_callbacks_every_operation_needs_its_scope(client):
    """A key with another scope gets 403 that names the scope, also with a body that is not JSON."""
    for method, path, operation in await operations(client):
        if path.startswith(JOBS):
            body = None if method == "GET" else b"{"
            answer = await client.request(method, filled(path), content=body, headers=bearer(OPERATOR))
            assert answer.status_code == 403, (method, path, answer.text)
            needed = answer.json()["detail"].removeprefix("this needs the scope ").strip("'")
            assert f"scope `{needed}`" in operation["description"]


async def test_two_authorization_headers_are_refused_by_every_operation(client):
    """Otherwise a proxy could check one and the gateway use the other. The metrics, too."""
    del client.headers["authorization"]
    both = [("Authorization", f"Bearer {READER}"), ("Authorization", f"Bearer {OPERATOR}")]
    for method, path, _ in await operations(client):
        if path not in OPEN:
            answer = await client.request(method, filled(path), headers=both)
            assert (answer.status_code, answer.json()["detail"]) == (401, "Authorization must be sent once"), path


async def test_the_metrics_token_is_compared_as_a_whole(database_url, redis_url, registry):
    """No beginning of it, no other spelling, and not for another route."""
    token = "m" * 40
    async with open_client(database_url, None, redis_url=redis_url, metrics_token=token) as client:
        for wrong in ("m" * 39, "m" * 41, "M" * 40, "", "é" * 40):
            refused = await client.get("/metrics", headers={b"Authorization": f"Bearer {wrong}".encode()})
            assert refused.status_code == 401, wrong
        assert (await client.get("/metrics", headers=bearer(token))).status_code == 200
        assert (await client.get("/v1/jobs", headers=bearer(token))).status_code == 401


# ── SQL ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("text", METACHARACTERS)
async def test_what_looks_like_sql_is_a_value(service, tenants, psql, text):
    """It is stored as it is and finds only itself; the rows of others are still there and not shown."""
    tenants.enqueue(tenants.second)
    made = await service.post("/v1/jobs", json=tenants.score(prompt=text, idempotency_key=f"k{text}"))
    assert made.status_code == 201, made.text

    mine = await service.get("/v1/jobs", params={"stage": "scoring.score", "key": f"k{text}"})
    found = await service.get("/v1/jobs", params={"stage": "scoring.score", "key": text})

    assert [job["id"] for job in mine.json()["items"]] == [made.json()["id"]]
    assert found.json()["items"] == []
    rows = psql.execute("SELECT owner_id, prompt FROM scoring.scoring_jobs ORDER BY id").fetchall()
    assert [row["owner_id"] for row in rows] == [OTHER_TENANT, tenants.first]
    assert rows[1]["prompt"] == text


@pytest.mark.parametrize("text", METACHARACTERS)
async def test_no_parameter_of_jobs_is_a_part_of_a_statement(service, tenants, text):
    """Of a path, a query or a header: it is refused in one line, or it finds nothing."""
    [job] = tenants.enqueue()
    theirs = tenants.enqueue(tenants.second)
    for method, path, operation in await operations(service):
        if path.startswith(JOBS) and not path.endswith("/events"):
            for parameter in operation.get("parameters", ()):
                request = with_value(path, parameter, text, job)
                answer = await service.request(method, **request)
                assert answer.status_code < 500, (method, path, parameter["name"], answer.text)
                assert answer.status_code < 300 or "\n" not in answer.json()["detail"]
                assert not [one for one in theirs if str(one) in answer.text]


def with_value(path: str, parameter: dict[str, Any], text: str, job: uuid.UUID) -> dict[str, Any]:
    """Return a request with ``text`` in one parameter; other ids are those of ``job``."""
    name, request = parameter["name"], dict[str, Any]()
    if parameter["in"] == "path":
        path = path.replace(f"{{{name}}}", quote(text, safe=""))
    elif parameter["in"] == "query":
        request["params"] = {name: text}
    else:
        request["headers"] = {name: text}
    return {"url": filled(path.replace("{job_id}", str(job)))} | request


# ── paths ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def ask(gateway: Any, line: bytes, *headers: bytes) -> tuple[int, bytes]:
    """Send a request line as it is; return the status and the answer."""
    lines = [line, b"Host: x", b"Connection: close", b"Authorization: Bearer " + EVERYTHING.encode(), *headers]
    with gateway.connect() as connection:
        connection.sendall(b"\r\n".join(lines) + b"\r\n\r\n")
        answer = b"".join(parts(connection))
    return int(answer.split(b" ", 2)[1]), answer


def parts(connection: socket.socket) -> Iterator[bytes]:
    while part := connection.recv(65_536):
        yield part


@pytest.mark.parametrize(
    "path",
    [
        "/v1/../v1/stages", "/v1/./stages", "//v1/stages", "/v1//stages", "/V1/stages", "/v1/stages/",
        "/v1/stages;x=1",
        "/v1/stages%20", "/v1/stages%0a", "/v1/stages%0d%0aX-Role:%20admin", "/v1/stages%3Fx", "/%2e%2e/v1/stages",
        "/docs/..%2fv1/stages", "/docs/../../../etc/passwd", "/docs/%2e%2e/%2e%2e/door.py", "/docs/..%5cdoor.py",
        "/docs//etc/passwd", "/docs/index.html%00.css", "/problems/..%2f..%2fetc%2fpasswd", "/v1/%ff%fe",
        "/v1/jobs/%2e%2e", "/healthz%0a", "/metrics%0A", "http://elsewhere.test/v1/stages", "*",
        "/.git/config", "/.env", "/console/../v1/stages",
    ],
)  # fmt: skip
def test_a_trick_with_a_path_finds_nothing(gateway, path):
    """The path as it was sent is not one of ours: nothing is normalised, redirected, or read from a disk."""
    status, answer = ask(gateway, f"GET {path} HTTP/1.1".encode())

    assert status in {400, 404, 422}, answer
    head = answer.partition(b"\r\n\r\n")[0].lower()
    assert b"application/problem+json" in head
    assert b"location:" not in head
    assert b"x-role" not in head
    assert b"root:" not in answer


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "PROPFIND", "get", "X" * 50])
def test_another_method_is_refused(gateway, method):
    """Also TRACE, which would show the headers of the request."""
    status, answer = ask(gateway, f"{method} /v1/stages HTTP/1.1".encode(), b"X-Secret: hunter2")

    assert status in {400, 405}
    assert b"hunter2" not in answer
    assert EVERYTHING.encode() not in answer


@pytest.mark.parametrize("override", [b"X-HTTP-Method-Override: DELETE", b"X-Method-Override: DELETE"])
@pytest.mark.parametrize("rewrite", [b"X-Original-URL: /metrics", b"X-Rewrite-URL: /metrics"])
def test_no_header_changes_the_method_or_the_path(gateway, override, rewrite):
    """What a proxy checked is what is done."""
    status, answer = ask(gateway, b"GET /healthz HTTP/1.1", override, rewrite)

    assert status == 200
    assert b'{"status":"alive"}' in answer


# ── headers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("break_", [b"\r\n", b"\n", b"\r", b"\x00", b"%0d%0a", "\u560d\u560a".encode()])
@pytest.mark.parametrize(
    "name", [b"X-Request-Id", b"traceparent", b"User-Agent", b"Idempotency-Key", b"If-Match", b"Last-Event-ID"]
)
def test_a_line_break_in_a_header_makes_no_header_of_the_answer(gateway, name, break_):
    """Nor a second answer. Whatever comes back is on a line of its own."""
    status, answer = ask(gateway, b"GET /v1/stages HTTP/1.1", name + b": a" + break_ + b"X-Injected: yes")

    assert status in {200, 400, 422}
    assert answer.count(b"HTTP/1.1 ") == 1
    head = answer.partition(b"\r\n\r\n")[0]
    assert not [line for line in head.splitlines() if line.lower().startswith(b"x-injected")]


async def test_a_line_break_in_a_value_makes_no_header_and_no_line_of_a_stream(service, tenants):
    """In keys, reasons and names: JSON escapes it."""
    evil = "x\r\nX-Injected: yes\r\n\r\ndata: forged"
    made = await service.post("/v1/jobs", json=tenants.score(prompt=evil))
    cancelled = await service.post(f"{made.headers['location']}/cancel", json={"reason": evil})
    events = await service.get(f"{made.headers['location']}/events")

    assert (made.status_code, cancelled.status_code) == (201, 200)
    assert "x-injected" not in made.headers
    lines = events.text.splitlines()
    assert not [line for line in lines if line.startswith(("data: forged", "X-Injected"))]
    assert sum(line.startswith("data: ") for line in lines) == 2


# ── other tenants ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_cursor_of_another_tenant_shows_nothing_of_it(service, tenants):
    """It is refused, or it only says where a page begins."""
    theirs = {str(one) for one in tenants.enqueue(tenants.second, count=3)}
    tenants.enqueue(count=3)
    first = (await service.get("/v1/jobs?limit=1", headers=bearer(OTHER))).json()

    answer = await service.get("/v1/jobs", params={"limit": 1, "cursor": first["next"]}, headers=bearer(SERVICE))

    assert answer.status_code in {200, 422}
    assert not [one for one in theirs if one in answer.text]


async def test_the_owner_of_a_new_job_is_never_what_the_body_says(service, tenants, psql):
    """Nor what a header or the query says."""
    for change in ({"owner_id": str(OTHER_TENANT)}, {"payload": {**tenants.score()["payload"], "owner_id": "x"}}):
        refused = await service.post("/v1/jobs", json=tenants.score() | change)
        assert refused.status_code == 422
    made = await service.post(
        f"/v1/jobs?user_id={OTHER_TENANT}", json=tenants.score(), headers={"X-User-Id": str(OTHER_TENANT)}
    )

    assert made.status_code == 201
    assert psql.execute("SELECT owner_id FROM scoring.scoring_jobs").fetchone()["owner_id"] == tenants.first


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/", "http://localhost:8000/", "http://[::1]/", "http://[::ffff:127.0.0.1]/", "http://0/",
        "http://2130706433/", "http://0x7f.1/", "http://169.254.169.254/latest/meta-data/", "http://10.0.0.1/",
        "http://[fd00::1]/", "http://192.168.1.1/", "file:///etc/passwd", "gopher://x/", "http://user:pw@127.0.0.1/",
    ],
)  # fmt: skip
@pytest.mark.parametrize("door", ["one", "batch"])
async def test_a_callback_to_an_address_inside_is_refused_at_the_door(service, tenants, psql, url, door):
    """By name of the field, and without the URL, which may hold a secret."""
    wanted = tenants.score(callback_url=url)
    if door == "one":
        refused = await service.post("/v1/jobs", json=wanted)
    else:
        refused = await service.post("/v1/jobs/batch", json=[wanted])

    assert refused.status_code == 422, refused.text
    assert refused.json()["errors"][0]["field"].endswith("callback_url")
    assert "pw@" not in refused.text
    assert psql.execute("SELECT count(*) AS n FROM scoring.scoring_jobs").fetchone()["n"] == 0
