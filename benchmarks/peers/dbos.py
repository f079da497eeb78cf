"""DBOS: durable workflows in Postgres. Every job is a row, and rows are kept."""

import asyncio
import os
import sys

from dbos import DBOS, DBOSClient, DBOSConfig

from benchmarks.peers.jobs import CONCURRENCY, work

URL = os.environ["DATABASE_URL"]
CONFIG: DBOSConfig = {
    "name": "bench",
    "system_database_url": URL,
    "run_admin_server": False,
    "application_version": "1",
    "log_level": "ERROR",
}


@DBOS.workflow(name="bench")
async def bench() -> None:
    """Do one job."""
    await work()


async def main(role: str) -> None:
    """Set up, enqueue, or work until SIGTERM."""
    if role == "enqueue":
        client = DBOSClient(system_database_url=URL)
        for _ in range(int(sys.argv[2])):
            await client.enqueue_async({"queue_name": "bench", "workflow_name": "bench", "app_version": "1"})
        return
    DBOS(config=CONFIG)
    DBOS.launch()
    await DBOS.register_queue_async("bench", worker_concurrency=CONCURRENCY, polling_interval_sec=0.1)
    if role == "worker":
        await asyncio.Event().wait()
    DBOS.destroy()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
