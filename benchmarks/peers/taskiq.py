"""taskiq on Redis streams: acknowledged messages and no rows. A flushed Redis loses every job."""

import asyncio
import os
import signal
import sys

from taskiq.api import run_receiver_task
from taskiq_redis import RedisStreamBroker

from benchmarks.peers.jobs import CONCURRENCY, work

broker = RedisStreamBroker(url=os.environ["REDIS_URL"], unacknowledged_batch_size=CONCURRENCY)


@broker.task(task_name="bench")
async def bench() -> None:
    """Do one job."""
    await work()


async def main(role: str) -> None:
    """Enqueue, or work until SIGTERM; there is nothing to set up."""
    match role:
        case "setup":
            return
        case "enqueue":
            await broker.startup()
            for _ in range(int(sys.argv[2])):
                await bench.kiq()
            await broker.shutdown()
        case _:
            broker.is_worker_process = True
            await broker.startup()
            # Otherwise the receiver waits without end for its prefetched messages.
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, os._exit, 0)
            await run_receiver_task(broker, max_async_tasks=CONCURRENCY, run_startup=False)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
