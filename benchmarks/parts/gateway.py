"""The gateway: one job per request, batches, the way from a commit to an event, and thousands of idle streams."""

import asyncio
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from uuid import UUID, uuid4

import psutil
from sqlalchemy import text

from benchmarks.figures import OURS, Figure, figure
from benchmarks.parts import Bench
from benchmarks.system import System, processes, wait_for
from local.embedded.ports import choose_port
from workers.runtime.actor import Actor
from workers.runtime.connections import connect_async
from workers.runtime.database import Database
from workers.runtime.enqueue import enqueue_many
from workers.runtime.operate.api_keys import create_key

CONNECTIONS = 16
REQUESTS_PER_SINGLE = 10
EVENTS_PER_SECOND = 200
IDLE_STREAMS = 2_000
MEGABYTE = 1_000_000
STAGE = "scoring.score"


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant with a key and a profile, and an operator's key."""

    user: UUID
    profile: UUID
    key: str
    operator: str


def run(bench: Bench) -> Iterator[Figure]:
    """Compare with a bare route and with enqueue_many; measure events and idle streams."""
    system = bench.system
    tenant = _tenant(system)
    requests = bench.sizes.enqueue_singles * REQUESTS_PER_SINGLE
    body = json.dumps({"profile_id": str(tenant.profile), "prompt": "Judge."}).encode()

    def ours_single() -> float:
        keyed = (
            json.dumps(
                {
                    "stage": STAGE,
                    "payload": {"profile_id": str(tenant.profile), "prompt": "Judge."},
                    "idempotency_key": uuid4().hex,
                }
            ).encode()
            for _ in range(requests)
        )
        with _server(system, "ours") as (port, _):
            return _rate(port, list(keyed), tenant.key)

    def bare_single() -> float:
        with _server(system, "bare") as (port, _):
            return _rate(port, [body] * requests, tenant.key)

    samples = bench.interleaved({OURS: ours_single, "bare route": bare_single})
    yield figure("gateway_single", "POST /v1/jobs with a key, requests/s", "jobs/s", samples)

    jobs = bench.sizes.enqueue_jobs
    samples = bench.interleaved(
        {
            OURS: lambda: _batch(system, tenant, jobs),
            "enqueue_many": lambda: asyncio.run(_many(system, tenant, jobs)),
        }
    )
    yield figure("gateway_batch", "POST /v1/jobs/batch, compared with enqueue_many in the same role", "jobs/s", samples)

    seconds = bench.sizes.latency_seconds
    measured = bench.interleaved({OURS: lambda: _event_latency(system, tenant, seconds)})[OURS]
    for share in ("p50", "p99"):
        yield figure(
            f"gateway_event_{share}",
            f"commit to event at {EVENTS_PER_SECOND}/s, {share}",
            "ms",
            {OURS: [one[share] for one in measured]},
        )
    memory = bench.interleaved({OURS: lambda: _idle_memory(system, tenant)})[OURS]
    yield figure("gateway_idle", f"resident memory with {IDLE_STREAMS:,} idle streams", "MB", {OURS: memory})


def _tenant(system: System) -> Tenant:
    user = system.value("INSERT INTO auth.users (email) VALUES (%s) RETURNING id", [f"{uuid4().hex}@example.test"])
    with system.postgres.transaction():
        system.postgres.execute("SELECT set_config('gristmill.user_id', %s, true)", [str(user)])
        profile = system.value("INSERT INTO scoring.profiles (name) VALUES ('bench') RETURNING id")

    async def make() -> list[str]:
        database = Database(system.database_url, changed_by="bench")
        try:
            async with database.kernel() as conn:
                own, scopes = Actor(changed_by="bench"), ("jobs:read", "jobs:write")
                of_user = await create_key(conn, own, name=f"u{uuid4().hex[:8]}", scopes=scopes, acts_for=user)
                of_all = await create_key(conn, own, name=f"o{uuid4().hex[:8]}", scopes=(*scopes, "operate"))
            return [of_user.secret, of_all.secret]
        finally:
            await database.close()

    return Tenant(user, profile, *asyncio.run(make()))


@contextmanager
def _server(system: System, which: str) -> Iterator[tuple[int, int]]:
    """Run one of the servers; yield its port and pid."""
    port = choose_port()
    command = [sys.executable, "-m", "benchmarks.gateway_role", which, str(port)]
    with processes([command], system.environment, log=system.folder / "roles.log") as (pid,):
        wait_for(lambda: _listens(port), seconds=60, alive=[pid])
        yield port, pid


def _listens(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _head(path: str, key: str, more: str = "", *, method: str = "POST") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n{more}".encode()


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bytes:
    """Send a request and return the body of its answer; raise ConnectionError unless it is a success."""
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
    answer = await reader.readexactly(length)
    if not head.startswith(b"HTTP/1.1 2"):
        raise ConnectionError(answer.decode()[:300])
    return answer


def _rate(port: int, bodies: list[bytes], key: str) -> float:
    """Return requests per second over some open connections, after each was used once."""

    async def measure() -> float:
        head = _head("/v1/jobs", key, "Content-Type: application/json\r\n")
        requests = [b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body) for body in bodies]
        connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(CONNECTIONS)]
        await asyncio.gather(*(_ask(*one, requests.pop()) for one in connections))
        count, start = len(requests), time.perf_counter()

        async def work(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while requests:
                await _ask(reader, writer, requests.pop())

        await asyncio.gather(*(work(*one) for one in connections))
        seconds = time.perf_counter() - start
        for _, writer in connections:
            writer.close()
        return count / seconds

    return asyncio.run(measure())


def _payload(tenant: Tenant) -> dict[str, str]:
    return {"profile_id": str(tenant.profile), "prompt": "Judge."}


def _batch(system: System, tenant: Tenant, jobs: int) -> float:
    line = json.dumps({"stage": STAGE, "payload": _payload(tenant)}).encode() + b"\n"
    body = line * jobs
    head = _head("/v1/jobs/batch", tenant.key, "Content-Type: application/x-ndjson\r\n")

    async def measure(port: int) -> float:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**26)
        small = line * 10
        await _ask(reader, writer, b"%bContent-Length: %d\r\n\r\n%b" % (head, len(small), small))
        start = time.perf_counter()
        await _ask(reader, writer, b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body))
        seconds = time.perf_counter() - start
        writer.close()
        return jobs / seconds

    with _server(system, "ours") as (port, _):
        return asyncio.run(measure(port))


async def _many(system: System, tenant: Tenant, jobs: int) -> float:
    """Enqueue in the role of a service, in one transaction."""
    database = Database(system.database_url, changed_by="bench")
    wanted = [_payload(tenant) for _ in range(jobs)]
    async with database.session() as session:
        await session.execute(text("SET LOCAL ROLE gristmill_service"))
        await session.execute(text("SELECT set_config('gristmill.user_id', :user, true)"), {"user": str(tenant.user)})
        start = time.perf_counter()
        await enqueue_many(session, STAGE, wanted)
        await session.commit()
        seconds = time.perf_counter() - start
    await database.close()
    return jobs / seconds


@asynccontextmanager
async def _stream(port: int, path: str, key: str) -> AsyncIterator[asyncio.StreamReader]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(_head(path, key, "\r\n", method="GET"))
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise ConnectionError(head.decode()[:300])
    try:
        yield reader
    finally:
        writer.close()


def _event_latency(system: System, tenant: Tenant, seconds: float) -> dict[str, float]:
    """End jobs at a steady rate, a commit each; measure until a follower of all jobs has the event."""
    count = int(seconds * EVENTS_PER_SECOND)
    with system.postgres.transaction():
        system.postgres.execute("SELECT set_config('gristmill.user_id', %s, true)", [str(tenant.user)])
        found = system.postgres.execute(
            "SELECT scoring.enqueue_score(%s, 'Judge.') FROM generate_series(1, %s)", [tenant.profile, count]
        ).fetchall()
    ids = [str(id_) for (id_,) in found]
    committed: dict[str, float] = {}
    received: dict[str, float] = {}

    async def end_them() -> None:
        async with await connect_async(system.database_url, autocommit=True) as connection:
            start = time.perf_counter()
            for nth, id_ in enumerate(ids):
                await asyncio.sleep(max(0.0, start + nth / EVENTS_PER_SECOND - time.perf_counter()))
                await connection.execute("SELECT runtime.cancel(%s)", [id_])
                committed[id_] = time.perf_counter()

    async def follow(reader: asyncio.StreamReader) -> None:
        while len(received) < count:
            line = await reader.readline()
            if line.startswith(b"data: "):
                event = json.loads(line[6:])
                if event["outcome"] == "cancelled":
                    received[event["job_id"]] = time.perf_counter()

    async def measure(port: int) -> None:
        async with _stream(port, "/v1/events", tenant.operator) as reader:
            following = asyncio.create_task(follow(reader))
            await asyncio.sleep(1)
            await end_them()
            await asyncio.wait_for(following, 60)

    with _server(system, "ours") as (port, _):
        asyncio.run(measure(port))
    latencies = [1_000 * max(0.0, received[id_] - committed[id_]) for id_ in ids]
    shares = statistics.quantiles(latencies, n=100)
    return {"p50": shares[49], "p99": shares[98]}


def _idle_memory(system: System, tenant: Tenant) -> float:
    """Open streams of both kinds, wait until all have begun, and read the memory of the server."""
    with system.postgres.transaction():
        system.postgres.execute("SELECT set_config('gristmill.user_id', %s, true)", [str(tenant.user)])
        job = system.value("SELECT scoring.enqueue_score(%s, 'Judge.')", [tenant.profile])
    paths = ["/v1/events", f"/v1/stages/{STAGE}/events", f"/v1/jobs/{job}/events"]

    async def measure(port: int, resident: Callable[[], float]) -> float:
        from contextlib import AsyncExitStack

        async with AsyncExitStack() as stack:
            for nth in range(IDLE_STREAMS):
                reader = await stack.enter_async_context(_stream(port, paths[nth % len(paths)], tenant.key))
                await reader.readline()
            await asyncio.sleep(2)
            return resident()

    with _server(system, "ours") as (port, pid):
        return asyncio.run(measure(port, lambda: psutil.Process(pid).memory_info().rss / MEGABYTE))
