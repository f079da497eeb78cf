"""Processes that ask for admission, each with a clock of its own that lies and jumps, and die wherever they are.

``python -m tests.support.askers URL MODE --seed N --runs N``: ``crash`` kills one after the other, six at a time, a
moment after its first reservation; ``load`` has six ask as much as they can, until they are told to end by a signal.
They are forked, for to start one anew takes a second.
"""

import argparse
import asyncio
import os
import random
import select
import signal
import sys
import time
import uuid
from collections.abc import Callable

from tests.support.admission import PriceList, call, usage
from workers.llm.admission.postgres_admission import PostgresAdmission
from workers.llm.admission.turns import Turns
from workers.llm.calls import NotAdmittedError
from workers.runtime.database import Database

AT_ONCE = 6
CALLERS = 12
# How far a clock is wrong at most, and at which share of its readings it jumps.
WRONG_SECONDS, JUMPS = 86_400, 0.02
# The share of callers under load that wait for the time they were told. The others ask again and again, so that a
# limit is tried at every moment.
WAITING_CALLERS = 0.5
OWNERS = [uuid.UUID(int=n) for n in range(1, 4)]
WORKER = """INSERT INTO runtime.workers (id, name, queues, slots, lease_seconds) VALUES (%s, 'w', '{}', 1, 3600)"""


def lie(draw: random.Random) -> None:
    """Have this process's clock be wrong by up to a day, and jump to another wrong time now and then."""
    real_ns = time.time_ns
    wrong_by = draw.uniform(-WRONG_SECONDS, WRONG_SECONDS)

    def wrong_ns() -> int:
        nonlocal wrong_by
        if draw.random() < JUMPS:
            wrong_by = draw.uniform(-WRONG_SECONDS, WRONG_SECONDS)
        return real_ns() + int(wrong_by * 1_000_000_000)

    time.time = lambda: wrong_ns() / 1_000_000_000
    time.time_ns = wrong_ns


async def work(url: str, draw: random.Random, begun: Callable[[], None], *, waits: bool) -> None:
    """Make calls for ever: some are used, some refused, some lost, some never made."""
    database = Database(url, changed_by="worker:asker")
    worker = uuid.uuid4()
    async with database.kernel() as conn:
        await conn.execute(WORKER, [worker])
    admission = PostgresAdmission(database, worker, PriceList())
    turns = Turns(admission)

    async def make_calls() -> None:
        waits_here = waits and draw.random() < WAITING_CALLERS
        while True:
            one = call(
                provider=draw.choice("pq"), owner=draw.choice(OWNERS), tokens=draw.randrange(1, 50),
                output=draw.randrange(50), stage=draw.choice([None, "s"]),
            )  # fmt: skip
            try:
                await (turns.admitted(one) if waits_here else admission.reserve(one))
            except NotAdmittedError:
                await asyncio.sleep(draw.random() * 0.02)
                continue
            begun()
            await asyncio.sleep(draw.random() * 0.01)
            match draw.randrange(8):
                case 0:
                    await admission.fail(one, "500", charged=False)
                case 1:
                    await admission.fail(one, "cut", charged=True)
                case 2:
                    await admission.release(one)
                case _:
                    await admission.settle(one, usage(draw.randrange(60), draw.randrange(60)))

    async with asyncio.TaskGroup() as tasks:
        for _ in range(CALLERS):
            tasks.create_task(make_calls())


def fork(url: str, seed: int, *, waits: bool) -> tuple[int, int]:
    """Start one; return its pid and what becomes readable with its first reservation."""
    readable, writable = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writable)
        return pid, readable
    os.close(readable)
    draw = random.Random(seed)
    lie(random.Random(seed))
    told: list[int] = []

    def begun() -> None:
        if not told:
            told.append(os.write(writable, b"."))

    try:
        asyncio.run(work(url, draw, begun, waits=waits))
    finally:
        os._exit(1)


def reserve_and_die(url: str, seed: int, draw: random.Random) -> None:
    """Have six run, and kill each a moment after its first reservation."""
    running = [fork(url, seed * 100 + n, waits=False) for n in range(AT_ONCE)]
    for pid, readable in running:
        select.select([readable], [], [], 20)
        time.sleep(draw.random() * 0.03)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(readable)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("mode", choices=["crash", "load"])
    parser.add_argument("--seed", type=int, default=14)
    parser.add_argument("--runs", type=int, default=1)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    if options.mode == "crash":
        for run in range(-(-options.runs // AT_ONCE)):
            reserve_and_die(options.url, options.seed + run, draw)
        return
    running = [fork(options.url, options.seed + n, waits=True) for n in range(AT_ONCE)]
    for _, readable in running:
        select.select([readable], [], [], 20)
    print("all ask", flush=True)  # noqa: T201 - the test waits for it
    sys.stdin.read()  # until the test closes it
    for pid, _ in running:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
