"""Procrastinate: jobs in Postgres. It fetches and finishes one by one with SQL functions, and keeps its rows."""

import asyncio
import os
import sys

from procrastinate import App, PsycopgConnector

from benchmarks.peers.jobs import CONCURRENCY, work

CHUNK = 1_000
app = App(connector=PsycopgConnector(conninfo=os.environ["DATABASE_URL"], max_size=20))


@app.task(name="bench")
async def bench() -> None:
    """Do one job."""
    await work()


async def main(role: str) -> None:
    """Set up, enqueue, or work until SIGTERM."""
    async with app.open_async():
        match role:
            case "setup":
                await app.schema_manager.apply_schema_async()
            case "enqueue":
                jobs = int(sys.argv[2])
                for start in range(0, jobs, CHUNK):
                    await bench.batch_defer_async(*({} for _ in range(min(CHUNK, jobs - start))))
            case _:
                await app.run_worker_async(concurrency=CONCURRENCY)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
