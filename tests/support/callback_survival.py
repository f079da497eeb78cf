"""Enqueue jobs with callbacks while workers and Postgres are killed, and count what arrives.

By hand with many jobs: ``python -m tests.support.callback_survival 10000``.
"""

import asyncio
import contextlib
import os
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import dict_row

from local.embedded import EmbeddedServers, throwaway_servers
from tests.conftest import create_database, make_template
from tests.support.callbacks import Receiver, receiving
from tests.support.fakes.web_server import Seen
from tests.support.paths import ROOT
from workers.notifications.endpoints import replace_one_off_secret
from workers.notifications.rules import CallbackRules
from workers.operations.keyring import Keyring, new_key
from workers.runtime.actor import Actor
from workers.runtime.database import Database
from workers.runtime.enqueue import Enqueued, enqueue_many
from workers.runtime.handler.registry import discover

STAGE = "proving.plain"
# A message whose second attempt fails too is sent again after five to six minutes.
MAX_IDLE_SECONDS = 420.0
ENQUEUERS, PER_STATEMENT = 4, 5
PAUSE_SECONDS = (1.5, 4.0)
MEAN_PAUSE_SECONDS = sum(PAUSE_SECONDS) / 2
# Of so many messages the receiver refuses the first attempt of one.
REFUSES_ONE_OF = 20
# The ends of the jobs, evenly.
ACTS = ("complete", "fail", "cancel", "complete")


@dataclass
class Survival:
    """What was accepted, what there is, and what arrived."""

    accepted: dict[str, UUID] = field(default_factory=dict)
    jobs: list[dict[str, Any]] = field(default_factory=list)
    deliveries: list[dict[str, Any]] = field(default_factory=list)
    arrived: Counter[UUID] = field(default_factory=Counter)
    unsigned: int = 0
    notices: int = 0
    kills: int = 0
    crashes: int = 0


async def survive(count: int, *, kills: int, crashes: int, seed: int) -> Survival:
    """Enqueue ``count`` jobs, kill the worker ``kills`` times, Postgres ``crashes`` times; wait for the callbacks."""
    found, key, draw = Survival(), new_key(), random.Random(seed)
    with throwaway_servers(valkey=False) as servers:
        template = make_template(servers.urls.database_url)
        url = create_database(servers.urls.database_url, "survival", template=template)
        async with receiving() as receiver:
            _refuse_some(receiver, found, draw)
            receiver.secrets.append(await _make_secret(url, key))
            async with _killed_mill(url, key, found) as kill_mill:
                # The enqueues last as long as what disturbs them.
                rest = (kills + crashes) * MEAN_PAUSE_SECONDS * PER_STATEMENT * ENQUEUERS / count
                enqueued = asyncio.create_task(_enqueue_all(url, receiver.url(), count, found, rest=rest))
                await _disturb(servers, kill_mill, found, kills=kills, crashes=crashes, draw=draw)
                await enqueued
                await _settle_down(url, found)
            _count(receiver, found)
    return found


def _refuse_some(receiver: Receiver, found: Survival, draw: random.Random) -> None:
    """Refuse the first attempt of some messages, so that retries are among what is interrupted."""
    refused: dict[str, bool] = {}

    async def answer(seen: Seen, writer: asyncio.StreamWriter) -> None:
        id_ = seen.headers["webhook-id"]
        refuses = id_ not in refused and draw.randrange(REFUSES_ONE_OF) == 0
        refused[id_] = True
        status = 500 if refuses else 204
        # Verified now: a signature is valid for five minutes.
        seen.headers = {**seen.headers, "answered": str(status), "verified": str(bool(receiver.verified(seen)))}
        writer.write(f"HTTP/1.1 {status} Said\r\ncontent-length: 0\r\n\r\n".encode())

    receiver.web.answers["/hook"] = answer


async def _make_secret(url: str, key: str) -> str:
    database = Database(url, changed_by="test")
    try:
        async with database.kernel() as conn:
            rules = CallbackRules(keyring=Keyring([key]))
            return (await replace_one_off_secret(conn, Actor(changed_by="test"), rules=rules)).secret
    finally:
        await database.close()


@asynccontextmanager
async def _killed_mill(url: str, key: str, found: Survival) -> AsyncIterator[Callable[[], None]]:
    """Keep a mill running in a process of its own; yield what kills it. It is started again each time it ends."""
    running: list[asyncio.subprocess.Process] = []

    async def keep_running() -> None:
        while True:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tests.support.callback_mill", url, key,
                cwd=ROOT, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
            running[:] = [process]
            await process.wait()
            await asyncio.sleep(0.2)

    def kill() -> None:
        for process in running:
            if process.returncode is None:
                process.kill()
                found.kills += 1

    keeper = asyncio.create_task(keep_running())
    try:
        yield kill
    finally:
        keeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeper
        for process in running:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def _enqueue_all(url: str, callback_url: str, count: int, found: Survival, *, rest: float) -> None:
    """Enqueue each job under its own key until it is accepted, whatever happens to Postgres."""
    waiting = [range(first, min(first + PER_STATEMENT, count)) for first in range(0, count, PER_STATEMENT)][::-1]

    async def enqueue_some() -> None:
        database = Database(url, changed_by="test", pool_size=1)
        while waiting:
            numbers = waiting.pop()
            jobs = [
                {"act": ACTS[n % len(ACTS)], "idempotency_key": f"job-{n}", "callback_url": callback_url}
                for n in numbers
            ]
            made: list[Enqueued] = []
            while not made:
                try:
                    async with database.session() as session:
                        answer = await enqueue_many(session, STAGE, jobs)
                    made = list(answer)  # it is committed
                except Exception:  # noqa: BLE001 - Postgres is away: whether it was accepted shows the next try
                    await asyncio.sleep(0.1)
            for n, one in zip(numbers, made, strict=True):
                found.accepted[f"job-{n}"] = one.id
            await asyncio.sleep(rest)
        await database.close()

    await asyncio.gather(*(enqueue_some() for _ in range(ENQUEUERS)))


async def _disturb(
    servers: EmbeddedServers,
    kill_mill: Callable[[], None],
    found: Survival,
    *,
    kills: int,
    crashes: int,
    draw: random.Random,
) -> None:
    """Kill the mill and Postgres in a random order, with pauses in which work is done."""
    planned = ["mill"] * kills + ["postgres"] * crashes
    draw.shuffle(planned)
    for what in planned:
        await asyncio.sleep(draw.uniform(*PAUSE_SECONDS))
        if what == "mill":
            kill_mill()
        else:
            await asyncio.to_thread(servers.kill_postgres)
            await asyncio.sleep(draw.uniform(0.0, 1.0))
            # Only the main thread may start a server: it ends with its parent.
            servers.start_postgres()
            found.crashes += 1


async def _settle_down(url: str, found: Survival) -> None:
    """Wait until every job has ended and every delivery too; then read what there is."""
    deadline, before = time.monotonic() + MAX_IDLE_SECONDS, 0
    while True:
        with contextlib.suppress(psycopg.OperationalError):
            await _read(url, found)
            ended = sum(row["completed_at"] is not None for row in (*found.jobs, *found.deliveries))
            if ended == 2 * len(found.jobs) and len(found.deliveries) == len(found.jobs) and not found.notices:
                return
            if ended > before:
                deadline, before = time.monotonic() + MAX_IDLE_SECONDS, ended
        if time.monotonic() > deadline:
            return  # what is missing shows in what was read
        await asyncio.sleep(0.5)


async def _read(url: str, found: Survival) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True, row_factory=dict_row) as conn:
        jobs = await conn.execute("SELECT id, idempotency_key, status, completed_at FROM proving.plain_jobs")
        found.jobs = await jobs.fetchall()
        deliveries = await conn.execute("SELECT job_id, status, completed_at FROM notifications.deliveries")
        found.deliveries = await deliveries.fetchall()
        notices = await (await conn.execute("SELECT count(*) AS n FROM runtime.notices")).fetchone()
        found.notices = notices["n"] if notices else 0


def _count(receiver: Receiver, found: Survival) -> None:
    for seen, body in zip(receiver.seen, receiver.bodies, strict=True):
        if seen.headers["verified"] != "True":
            found.unsigned += 1
        elif seen.headers["answered"] == "204":
            found.arrived[UUID(body["data"]["job_id"])] += 1


def main(count: int) -> None:
    """Run it by hand and print what was found."""
    import tests.support.proving.stages  # noqa: F401 - registers the proving stages

    discover()
    began = time.monotonic()
    found = asyncio.run(survive(count, kills=max(8, count // 500), crashes=max(3, count // 2_000), seed=os.getpid()))
    ids = {row["id"] for row in found.jobs}
    again = sum(found.arrived.values()) - len(found.arrived)
    states = dict(Counter(row["status"] for row in found.deliveries))
    sys.stdout.write(
        f"{len(found.accepted):,} accepted, {len(found.jobs):,} jobs, {len(ids - found.arrived.keys()):,} callbacks "
        f"missing, {again:,} arrived again, {found.unsigned} without a valid signature; deliveries {states}; "
        f"{found.kills} kills of the worker, {found.crashes} of Postgres; {time.monotonic() - began:.0f} s\n"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]))
