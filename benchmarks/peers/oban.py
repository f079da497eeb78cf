"""Oban: jobs in Postgres. It fetches in batches, completes one by one after a check of the attempt, and keeps rows."""

import asyncio
import os
import signal
import sys

import uvloop
from oban import Oban, job
from oban.schema import install

from benchmarks.peers.jobs import CONCURRENCY, work

CHUNK = 1_000


@job(queue="bench")
async def bench() -> None:
    """Do one job."""
    await work()


async def main(role: str) -> None:
    """Set up, enqueue, or work until SIGTERM."""
    pool = await Oban.create_pool(os.environ["DATABASE_URL"], max_size=20)
    match role:
        case "setup":
            await install(pool)
        case "enqueue":
            client = Oban(pool=pool)
            jobs = int(sys.argv[2])
            for start in range(0, jobs, CHUNK):
                await client.enqueue_many(bench.new() for _ in range(min(CHUNK, jobs - start)))
        case _:
            stopped = asyncio.Event()
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
            async with Oban(pool=pool, queues={"bench": CONCURRENCY}):
                await stopped.wait()
    await pool.close()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
