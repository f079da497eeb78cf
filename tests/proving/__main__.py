"""Run one role with the proving stages registered: ``python -m tests.proving worker|dispatcher|beat``.

Reads DATABASE_URL and REDIS_URL, and JSON options from the second argument.
"""

import json
import os
import sys
from datetime import timedelta
from typing import Any

import tests.proving.stages  # noqa: F401 - importing registers the stages
from config.logging import configure
from config.schedules import DEFAULT_SCHEDULES
from tests.proving.llm import NoModel
from workers.runtime.registry import discover


def main() -> int:
    role, options = sys.argv[1], json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}
    configure("json")
    registry = discover()
    urls: dict[str, Any] = {"database_url": os.environ["DATABASE_URL"], "redis_url": os.environ["REDIS_URL"]}
    if role == "worker":
        from workers.transport.app import queue_names
        from workers.transport.worker import WorkerOptions, run_worker

        defaults: dict[str, Any] = {
            "queues": tuple(queue_names(registry)),
            "slots": 100,
            "heartbeat_seconds": 0.5,
            "lease_seconds": 3.0,
            "grace_seconds": 5.0,
            "transitions_retention": timedelta(days=400),
        }
        return run_worker(registry, NoModel(), WorkerOptions(**urls, **{**defaults, **options}))
    if role == "dispatcher":
        from workers.transport.dispatcher import run_dispatcher

        defaults = {"batch_size": 64, "poll_seconds": 0.2, "redispatch_seconds": 2.0}
        return run_dispatcher(registry, **urls, **{**defaults, **options})
    from workers.transport.beat import run_beat

    return run_beat(registry, **urls, defaults=DEFAULT_SCHEDULES)


if __name__ == "__main__":
    sys.exit(main())
