"""Celery on threads without durable jobs: the lowest latency that a message can have, for comparison."""

import os
import sys
import time
from pathlib import Path

from celery import Celery

from benchmarks.gristmill import arrivals, percentiles
from benchmarks.system import System, processes, wait_for

STAMPS = "GRISTMILL_BENCH_STAMPS"
THREADS = 16

app = Celery("bare", broker=os.environ.get("REDIS_URL"))
app.conf.update(task_ignore_result=True, worker_prefetch_multiplier=4, broker_connection_retry_on_startup=True)


@app.task(name="bare.stamp")
def stamp(number: int) -> None:
    """Record when the handler started."""
    now = time.time()
    with Path(os.environ[STAMPS]).open("a") as file:
        file.write(f"{number} {now}\n")


def latency(system: System, *, rate: float, seconds: float) -> dict[str, float]:
    """Send at ``rate`` messages/s; return send-to-handler percentiles."""
    stamps = system.folder / "stamps"
    stamps.write_text("")
    app.conf.update(broker_url=system.redis_url)
    options = ["--pool=threads", f"--concurrency={THREADS}", "--loglevel=ERROR", "--without-gossip"]
    command = [sys.executable, "-m", "celery", "-A", "benchmarks.bare_celery", "worker", *options]
    with processes([command], {**system.environment, STAMPS: str(stamps)}):
        with app.connection_for_write() as connection, app.amqp.Producer(connection) as producer:
            for number in range(-20, 0):
                app.send_task("bare.stamp", args=[number], producer=producer)
            wait_for(lambda: len(stamps.read_text().splitlines()) == 20, seconds=60)  # noqa: PLR2004 - as many
            sent: dict[int, float] = {}
            start = time.time()
            for number, at in enumerate(arrivals(rate, seconds)):
                time.sleep(max(0.0, start + at - time.time()))
                sent[number] = time.time()
                app.send_task("bare.stamp", args=[number], producer=producer)
        wait_for(lambda: len(stamps.read_text().splitlines()) == len(sent) + 20, seconds=60)
    started = dict(line.split() for line in stamps.read_text().splitlines())
    return percentiles([float(started[str(number)]) - at for number, at in sent.items()])
