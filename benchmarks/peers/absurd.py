"""Absurd: durable workflows with SQL functions. It claims in batches, completes one by one, and keeps its rows."""

import asyncio
import os
import sys

import absurdctl
import psycopg
from absurd_sdk import AsyncAbsurd, AsyncTaskContext

from benchmarks.peers.jobs import CONCURRENCY, work

app = AsyncAbsurd(os.environ["DATABASE_URL"], queue_name="bench")


@app.register_task(name="bench")
async def bench(_params: object, _context: AsyncTaskContext) -> None:
    """Do one job."""
    await work()


async def main(role: str) -> None:
    """Set up, enqueue, or work until SIGTERM."""
    match role:
        case "setup":
            async with await psycopg.AsyncConnection.connect(os.environ["DATABASE_URL"]) as connection:
                await connection.execute(absurdctl.BUNDLED_SCHEMA_SQL)
            await app.create_queue()
        case "enqueue":
            for _ in range(int(sys.argv[2])):
                await app.spawn("bench", None)
        case _:
            await app.start_worker(concurrency=CONCURRENCY)
    await app.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
