"""PgQueuer: jobs in Postgres. It fetches and finishes in batches, deletes and logs finished jobs, and has no fence."""

import asyncio
import os
import signal
import sys

import asyncpg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from benchmarks.peers.jobs import CONCURRENCY, work

BATCH = 256
CHUNK = 5_000


async def main(role: str) -> None:
    """Set up, enqueue, or work until SIGTERM."""
    connection = await asyncpg.connect(os.environ["DATABASE_URL"])
    driver = AsyncpgDriver(connection)
    match role:
        case "setup":
            await Queries(driver).install()
        case "enqueue":
            jobs = int(sys.argv[2])
            for start in range(0, jobs, CHUNK):
                count = min(CHUNK, jobs - start)
                await Queries(driver).enqueue(["bench"] * count, [None] * count, [0] * count)
        case _:
            pgq = PgQueuer(driver)

            @pgq.entrypoint("bench")
            async def bench(_: Job) -> None:
                await work()

            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, pgq.shutdown.set)
            await pgq.run(batch_size=BATCH, max_concurrent_tasks=CONCURRENCY)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
