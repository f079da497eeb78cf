"""Streams of a real gateway process: each event once, whoever resumes where; a stop tells clients to come back."""

import os
import random
import signal
import threading

import httpx2
import pytest

from tests.support.gateway import JOBS_OPERATOR, OTHER, SERVICE
from tests.support.gateway_jobs import Event, read_events
from tests.support.gateway_process import GatewayProcess, started_gateway

# By hand with 10,000.
EVENTS, KILLS = int(os.environ.get("STREAM_EVENTS", "1000")), 100


def read(gateway: GatewayProcess, path: str, wanted: int, *, key: str = SERVICE, **headers: str) -> list[Event]:
    """Return the first so many events of a stream with data, or all of one that ends; then break off."""
    found: list[Event] = []
    with gateway.client(key) as client, client.stream("GET", path, headers=headers) as answer:
        assert answer.status_code == 200, answer.read()
        for event in read_events(answer.iter_lines()):
            if event.data is not None:
                found.append(event)
            if len(found) == wanted:
                break
    return found


def first_position(gateway: GatewayProcess, path: str, key: str = SERVICE) -> str:
    """Return the position that a stream tells at once."""
    with gateway.client(key) as client, client.stream("GET", path) as answer:
        event = next(read_events(answer.iter_lines()))
    assert event.id is not None
    assert event.data is None
    return event.id


def test_a_job_is_followed_to_its_end(gateway, database_url, tenants):
    """The id of an event is the version; after the last one the stream ends, and there is nothing to come back for."""
    [job] = tenants.enqueue()
    follower: list[Event] = []
    thread = threading.Thread(target=lambda: follower.extend(read(gateway, f"/v1/jobs/{job}/events", 99)))
    thread.start()
    gateway.await_running(1)
    tenants.cancel(job)
    thread.join(30)

    assert [(event.id, event.name, event.data["outcome"]) for event in follower] == [
        ("1", "transition", None),
        ("2", "transition", "cancelled"),
    ]
    resumed = read(gateway, f"/v1/jobs/{job}/events", 99, **{"Last-Event-ID": "1"})
    assert [event.id for event in resumed] == ["2"]
    assert read(gateway, f"/v1/jobs/{job}/events?after=1", 99) == resumed
    with gateway.client(SERVICE) as client:
        assert client.get(f"/v1/jobs/{job}/events?after=2").status_code == 204
        assert client.get(f"/v1/jobs/{job}/events?after=x").status_code == 422


def test_the_streams_of_others_are_not_there(gateway, database_url, tenants):
    """A job, a project and a stage that one does not see are missing; a position that is none is refused."""
    [job] = tenants.enqueue(tenants.second)
    with gateway.client(SERVICE) as client:
        for path in (f"jobs/{job}", "stages/no.such", f"projects/{job}"):
            assert client.get(f"/v1/{path}/events").status_code == 404, path
        refused = client.get("/v1/events?after=nonsense")
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "after")
        foreign = client.get(f"/v1/events?after={2**60}.{'0' * 32}.0.")
        assert (foreign.status_code, "begin the stream anew" in foreign.json()["detail"]) == (409, True)


def test_a_tenant_follows_its_own_jobs(gateway, database_url, tenants):
    """An operator follows all; each stage has its own stream."""
    start = first_position(gateway, "/v1/events")
    mine, theirs = tenants.enqueue(count=2), tenants.enqueue(tenants.second, count=2)
    about = tenants.align()

    def jobs(path: str, wanted: int, key: str) -> set[str]:
        return {event.data["job_id"] for event in read(gateway, f"/v1/{path}?after={start}", wanted, key=key)}

    assert jobs("events", 3, SERVICE) == {*map(str, mine), str(about)}
    assert jobs("events", 2, OTHER) == set(map(str, theirs))
    assert jobs("stages/scoring.score/events", 2, SERVICE) == set(map(str, mine))
    assert jobs("events", 5, JOBS_OPERATOR) == {*map(str, (*mine, *theirs)), str(about)}
    assert jobs(f"projects/{tenants.project[tenants.first]}/events", 1, JOBS_OPERATOR) == {str(about)}
    assert jobs(f"projects/{tenants.project[tenants.first]}/events", 1, SERVICE) == {str(about)}


def test_a_client_killed_at_random_points_sees_each_event_of_a_project_once(gateway, database_url, tenants, psql):
    """While the events are written, by transactions that commit in another order than they began."""
    project = tenants.project[tenants.first]
    path = f"/v1/projects/{project}/events"
    own, kills, position = random.Random("writes"), random.Random("kills"), first_position(gateway, path)
    insert = (
        """INSERT INTO operations.analytics_jobs ("projectId", type) SELECT %s, 'TASK' FROM generate_series(1, %s)"""
    )

    def write() -> None:
        left = EVENTS
        while left:
            count = min(left, own.randint(1, 25))
            psql.execute(insert, [project, count])
            left -= count

    writer = threading.Thread(target=write)
    writer.start()
    seen: list[str] = []
    for kill in range(KILLS + 1):
        left = EVENTS - len(seen)
        wanted = left if kill == KILLS else kills.randint(0, max(1, 2 * left // (KILLS + 1 - kill)))
        if wanted:
            events = read(gateway, path, min(wanted, left), **{"Last-Event-ID": position})
            seen += [event.data["job_id"] for event in events]
            position = events[-1].id or position
        if len(seen) == EVENTS:
            break
    writer.join(60)

    assert len(seen) == len(set(seen)) == EVENTS
    recorded = psql.execute("SELECT job_id FROM runtime.transitions").fetchall()
    assert set(seen) == {str(row["job_id"]) for row in recorded}


@pytest.fixture
def own_gateway(servers, database_url, tenants, tmp_path):
    """A gateway that the test may stop."""
    with started_gateway(tmp_path, database_url, servers.urls.redis_url, grace_seconds=20) as gateway:
        yield gateway


def test_a_stop_ends_streams_and_waits(own_gateway, tenants):
    """Streams say when to come back; a wait answers with the job as it is; the process ends well."""
    [job] = tenants.enqueue()
    found: dict[str, object] = {}

    def follow(path: str) -> None:
        with own_gateway.client(SERVICE) as client, client.stream("GET", path) as answer:
            found[path] = list(answer.iter_lines())

    def wait() -> None:
        with httpx2.Client(
            base_url=own_gateway.url, headers={"Authorization": f"Bearer {SERVICE}"}, timeout=60
        ) as client:
            found["wait"] = client.get(f"/v1/jobs/{job}?wait=60").json()

    paths = ["/v1/events", f"/v1/jobs/{job}/events"]
    threads = [threading.Thread(target=follow, args=[path]) for path in paths] + [threading.Thread(target=wait)]
    for thread in threads:
        thread.start()
    own_gateway.await_running(3)
    own_gateway.terminate(signal.SIGTERM)
    for thread in threads:
        thread.join(30)

    assert own_gateway.process.wait(20) == 0
    for path in paths:
        lines = found[path]
        assert isinstance(lines, list)
        assert ": the server stops" in lines
        assert lines[lines.index(": the server stops") + 1].startswith("retry: ")
    waited = found["wait"]
    assert isinstance(waited, dict)
    assert waited["outcome"] is None


def test_a_stream_that_its_client_leaves_is_gone(gateway, database_url, tenants):
    """It is not counted any more."""
    with gateway.client(SERVICE) as client, client.stream("GET", "/v1/events") as answer:
        lines = answer.iter_lines()  # if it is not kept, the client closes the answer
        next(lines)
        gateway.await_running(1)
    gateway.await_running(0)


def test_a_wait_that_its_client_leaves_ends(gateway, database_url, tenants):
    """It does not wait for nobody."""
    [job] = tenants.enqueue()
    with gateway.connect() as connection:
        head = f"GET /v1/jobs/{job}?wait=60 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SERVICE}\r\n\r\n"
        connection.sendall(head.encode())
        gateway.await_running(1)
    gateway.await_running(0)
