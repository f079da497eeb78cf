"""A real server process: slow and wrong clients, overload, and a stop that finishes what runs."""

import concurrent.futures
import itertools
import json
import signal
import socket
from contextlib import suppress

import httpx2
import pytest

from gateway import server
from tests.support.gateway import OPERATOR, SERVICE
from tests.support.gateway_process import started_gateway

KEY = f"Authorization: Bearer {OPERATOR}\r\n".encode()


def answer_to(connection: socket.socket) -> bytes:
    """Return all that the server sends until it closes the connection; "" if it closes without an answer."""
    connection.settimeout(30)
    received = b""
    while True:
        try:
            chunk = connection.recv(65_536)
        except ConnectionResetError:
            return received
        if not chunk:
            return received
        received += chunk


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def problem_in(answer: bytes) -> dict[str, object]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    document: dict[str, object] = json.loads(body)
    return document


def test_slow_headers_are_cut(gateway):
    """A client that sends a byte now and then does not keep a connection."""
    with gateway.connect() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        answer = answer_to(connection)

    assert status_of(answer) == 408
    assert problem_in(answer)["type"] == "/problems/too-slow"


def test_a_connection_that_sends_nothing_is_closed(gateway):
    """Without an answer, because there was no request."""
    with gateway.connect() as connection:
        assert answer_to(connection) == b""


def test_a_slow_body_is_cut(gateway):
    """It gets an answer, and takes no place among the running requests meanwhile."""
    head = b"POST /test/things HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 900\r\n"
    with gateway.connect() as connection:
        connection.sendall(head + KEY + b"\r\n" + b'{"name": ')
        answer = answer_to(connection)

    assert status_of(answer) == 408
    assert "within 2 s" in str(problem_in(answer)["detail"])


def test_a_large_body_that_keeps_coming_is_read(gateway):
    """Only what is slow is cut, not what is long."""
    body = json.dumps({"name": "x", "inside": "x" * 4_000_000})
    with gateway.client() as client:
        answer = client.post("/test/large", content=body, headers={"Content-Type": "application/json"})

    assert answer.json() == {"length": 4_000_000}


def test_a_client_that_sends_all_before_it_reads_gets_its_refusal(gateway):
    """The server does not close the connection while the client still sends."""
    body = b"x" * 10_000_000
    with gateway.client() as client:
        for _ in range(2):  # the connection can be used again
            answer = client.post("/test/things", content=body, headers={"Content-Type": "application/json"})
            assert answer.status_code == 413


def test_a_refused_body_without_an_end_is_cut(gateway):
    """A client cannot send for ever."""
    head = b"POST /nothing HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"100000\r\n" + b"x" * 1_048_576 + b"\r\n"
    sent = 0
    with gateway.connect() as connection, suppress(ConnectionError):
        connection.sendall(head)
        while sent < 1_000:
            connection.sendall(chunk)
            sent += 1

    assert sent < 1_000


def test_a_second_request_that_comes_slowly_is_cut(gateway):
    """Also if its beginning came together with the first one."""
    first = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    for second in (b"GET /healthz HTTP/1.1\r\nHost:", b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"):
        with gateway.connect() as connection:
            connection.sendall(first + second)
            answer = answer_to(connection)

        assert answer.startswith(b"HTTP/1.1 200")


def test_a_client_that_does_not_read_is_cut(gateway):
    """Its answer is not kept in memory without end."""
    with gateway.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.sendall(b"GET /test/bytes?count=50000000 HTTP/1.1\r\nHost: x\r\n\r\n")

        gateway.await_line("slow_reader_cut")
        gateway.await_running(0)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),  # TLS
        (b"GET / HTTP/1.1\r\nHost: x\r\nBad Header: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: no host\r\n\r\n", 400),
        (b"POST /test/things HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"POST /test/things HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
    ],
)
def test_what_is_not_http_gets_a_problem(gateway, request_bytes, status):
    """And the connection is closed."""
    with gateway.connect() as connection:
        connection.sendall(request_bytes)
        answer = answer_to(connection)

    assert status_of(answer) == status, answer
    assert problem_in(answer)["status"] == status


THING = b'{"name": "x"}'
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(THING), THING)


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", CHUNKED),
        (b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", CHUNKED),
        (b"Content-Length: %d\r\nTransfer-Encoding: identity\r\n" % len(THING), THING),
        (b"Transfer-Encoding: chunked, identity\r\n", CHUNKED),
        (b"Transfer-Encoding: xchunked\r\n", CHUNKED),
        (b"Transfer-Encoding : chunked\r\n", CHUNKED),
        (b"Content-Length: %d\r\nContent-Length: 0\r\n" % len(THING), THING),
        (b"Content-Length: +%d\r\n" % len(THING), THING),
        (b"Content-Length: 0x%x\r\n" % len(THING), THING),
    ],
)
def test_a_request_that_two_servers_would_read_differently_is_refused(gateway, headers, body):
    """Smuggling: the body is valid, so nothing else refuses it. What follows on the connection is never answered."""
    head = b"POST /test/things HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + KEY + headers + b"\r\n"
    with gateway.connect() as connection:
        connection.sendall(head + body + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = answer_to(connection)

    assert status_of(answer) == 400, answer
    assert answer.count(b"HTTP/1.1 ") == 1


def test_a_chunked_body_is_read(gateway):
    """The twin of the test before: the same body with one length is fine."""
    head = b"POST /test/things HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n" + KEY
    with gateway.connect() as connection:
        connection.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKED)
        assert status_of(answer_to(connection)) == 200


def test_without_a_key_no_body_is_read(gateway):
    """The answer comes before the body: whoever has no key can neither fill the memory nor hold it."""
    head = b"POST /test/things HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n"
    with gateway.connect() as connection:
        connection.sendall(head)
        connection.settimeout(30)
        assert status_of(connection.recv(65_536)) == 401


def test_the_answer_names_no_software(gateway):
    """An attacker need not look it up."""
    with gateway.client() as client:
        assert "server" not in client.get("/healthz").headers


def test_each_request_is_one_line_in_the_log(gateway):
    """Method, template, status, time, the key's name and the request id; no payload, query or secret."""
    with gateway.client() as client:
        client.post("/test/things?q=hunter2", json={"name": "hunter2"}, headers={"X-Request-Id": "one-line"})

    [line] = gateway.await_lines("one-line", 1)
    assert {name: line[name] for name in ("event", "level", "logger", "method", "route", "status", "caller")} == {
        "event": "request",
        "level": "info",
        "logger": "gateway.requests",
        "method": "POST",
        "route": "/test/things",
        "status": 200,
        "caller": "key:operator",
    }
    assert line["milliseconds"] >= 0
    assert "hunter2" not in gateway.log.read_text()
    assert OPERATOR not in gateway.log.read_text()


def test_an_unexpected_error_is_in_the_log_with_its_request(gateway):
    """With the traceback: an operator finds it by the request id that the client quotes."""
    with gateway.client() as client:
        client.get("/test/boom", headers={"X-Request-Id": "went-wrong"})

    failed, _ = gateway.await_lines("went-wrong", 2)
    assert failed["event"] == "request_failed"
    assert "RuntimeError" in failed["exception"]


@pytest.mark.parametrize(("trusted", "host"), [([], "127.0.0.1"), (["127.0.0.0/8", "10.0.0.0/8"], "203.0.113.9")])
def test_only_a_trusted_proxy_names_the_client(servers, clone_url, tmp_path, trusted, host):
    """The history of changes has the client's address. Anybody could send the header."""
    forwarded = {"X-Forwarded-For": "198.51.100.1, 203.0.113.9, 10.1.2.3"}
    with (
        started_gateway(tmp_path, clone_url, servers.urls.redis_url, trusted_proxies=trusted) as gateway,
        gateway.client() as client,
    ):
        assert client.get("/test/client", headers=forwarded).json() == {"host": host}


@pytest.fixture
def small(servers, clone_url, tmp_path):
    """A gateway with two places and two in the queue."""
    with started_gateway(
        tmp_path, clone_url, servers.urls.redis_url, concurrency=2, queue=6, queue_seconds=20, max_connections=40
    ) as gateway:
        yield gateway


def test_overload_is_refused_with_a_time_to_come_back(small):
    """Some wait and are served; the others are refused at once; the probe answers all the time."""

    def ask(_: int) -> httpx2.Response:
        with small.client() as client:
            answer: httpx2.Response = client.get("/test/hold")
            return answer

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        asked = [pool.submit(ask, number) for number in range(20)]
        # One key gets half of the eight places.
        refused = [one.result() for one in itertools.islice(concurrent.futures.as_completed(asked), 16)]
        with small.client() as client:
            assert client.get("/healthz").status_code == 200
            client.post("/test/release")
        served = [answer for one in asked if (answer := one.result()) not in refused]

    assert {answer.status_code for answer in served} == {200}
    assert {answer.status_code for answer in refused} == {429}
    assert {answer.headers["retry-after"] for answer in refused} == {"1"}


def test_a_wait_that_ends_during_an_overload_is_answered(small):
    """Its work is done: it waits for a place again, however many want one, and is not refused."""
    with concurrent.futures.ThreadPoolExecutor(12) as pool:

        def ask(path: str) -> int:
            with small.client() as client:
                return int(client.get(path).status_code)

        waiting = [pool.submit(ask, "/test/park") for _ in range(8)]
        small.await_running(8)
        holding = [pool.submit(ask, "/test/hold") for _ in range(4)]
        small.await_queued(2)
        with small.client() as client:
            client.post("/test/release?what=park")
            small.await_queued(10)
            client.post("/test/release")
        assert {one.result() for one in waiting + holding} == {200}


def test_one_key_cannot_take_all_connections(small):
    """Half of them, also of requests that only wait: the others are answered."""
    with concurrent.futures.ThreadPoolExecutor(21) as pool:

        def wait(_: int) -> httpx2.Response:
            with small.client() as client:
                answer: httpx2.Response = client.get("/test/wait?seconds=30")
                return answer

        waiting = [pool.submit(wait, number) for number in range(21)]
        refused = next(concurrent.futures.as_completed(waiting)).result()
        with small.client(SERVICE) as client:
            assert client.post("/test/things", json={"name": "x"}).status_code == 200
        small.terminate()

    assert refused.status_code == 429
    assert refused.json()["violated-policies"] == ["concurrent"]


def test_a_client_that_reads_slowly_holds_no_place(small):
    """The lines of a batch wait for it, and others run meanwhile."""
    body = b"{}\n" * 30_000  # each gets a line that says what is wrong with it
    head = b"POST /v1/jobs/batch?mode=each HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\n"
    key = f"Authorization: Bearer {SERVICE}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with small.connect() as one, small.connect() as two:
        for connection in (one, two):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            connection.sendall(head + key + body)
            assert connection.recv(12) == b"HTTP/1.1 200"
        with small.client() as client:
            assert client.get("/test/busy?seconds=0").status_code == 200


def test_who_only_waits_takes_no_place(small):
    """Long polls of one key do not keep others from being served."""
    with concurrent.futures.ThreadPoolExecutor(10) as pool:

        def wait(_: int) -> int:
            with small.client() as client:
                return int(client.get("/test/wait?seconds=30").status_code)

        waiting = [pool.submit(wait, number) for number in range(10)]
        small.await_running(10)
        with small.client() as client:
            assert client.get("/test/busy?seconds=0").status_code == 200
        assert not any(one.done() for one in waiting)
        small.terminate()
        assert {one.result() for one in waiting} == {200}


def test_too_many_connections_are_refused(small):
    """The oldest go on."""
    with small.client() as client:
        client.get("/healthz")
        idle = [small.connect() for _ in range(40)]
        try:
            answer = answer_to(idle[-1])
            assert client.get("/healthz").status_code == 200
        finally:
            for connection in idle:
                connection.close()

    assert status_of(answer) == 503
    assert b"retry-after: 2" in answer.lower()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_finishes_what_runs(servers, clone_url, tmp_path, number):
    """Running requests are answered, waiting ones at once; nobody new gets in; the exit code is 0."""
    with started_gateway(tmp_path, clone_url, servers.urls.redis_url, grace_seconds=20) as gateway:
        with concurrent.futures.ThreadPoolExecutor(2) as pool:

            def ask(path: str) -> httpx2.Response:
                with gateway.client() as client:
                    return client.get(path)

            running, waiting = pool.submit(ask, "/test/busy?seconds=5"), pool.submit(ask, "/test/wait?seconds=25")
            gateway.await_running(2)
            gateway.terminate(number)
            assert waiting.result().json() == {"stopping": True}
            with pytest.raises(httpx2.ConnectError), gateway.client() as client:
                client.get("/healthz")
            assert running.result().status_code == 200
        assert gateway.process.wait(20) == 0
        events = [line["event"] for line in gateway.lines()]
    assert events[-1] == "gateway_stops"
    assert not [line for line in gateway.lines() if line["level"] in {"error", "warning"}]


def test_the_grace_of_a_stop_is_bounded(servers, clone_url, tmp_path):
    """A request that never ends does not keep the process."""
    with (
        started_gateway(tmp_path, clone_url, servers.urls.redis_url, grace_seconds=1) as gateway,
        gateway.connect() as connection,
    ):
        connection.sendall(b"GET /test/busy?seconds=100 HTTP/1.1\r\nHost: x\r\n" + KEY + b"\r\n")
        gateway.await_running(1)
        gateway.terminate()
        assert gateway.process.wait(20) == 0


def test_a_taken_port_is_one_line(servers, clone_url, tmp_path):
    """No traceback; the address and the reason."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        from gateway.server import listen
        from workers.runtime.refusals import Failed

        with pytest.raises(Failed, match=f"cannot listen on 127.0.0.1, port {port}: Address already in use"):
            listen("127.0.0.1", port)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_no_part_of_an_answer_waits_for_an_acknowledgement(address: str) -> None:
    """Nagle's algorithm and a late acknowledgement together would add 40 ms to each answer."""
    with server.listen(address, 0) as listener, socket.create_connection(listener.getsockname()[:2]):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
