"""Run one Gristmill role with the benchmark's handlers: ``python -m benchmarks.role worker|dispatcher '{options}'``.

Reads DATABASE_URL and REDIS_URL. ``"events": false`` turns job events off; ``"base_url"`` is the provider's URL.
"""

import json
import os
import sys
from datetime import timedelta
from typing import Any

from benchmarks.stages import STAGES
from config.logging import configure
from config.settings import DispatcherSettings

EVENT_METHODS = ("sent", "started", "settled", "stale", "stopped", "revoked")


def main() -> int:
    """Run until SIGTERM; return the exit code."""
    role, options = sys.argv[1], json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}  # noqa: PLR2004 - argv
    configure("json")
    if not options.pop("events", True):
        _silence()
    urls: dict[str, Any] = {"database_url": os.environ["DATABASE_URL"], "redis_url": os.environ["REDIS_URL"]}
    if role == "worker":
        return _worker(urls, options)
    if role == "flower":
        from workers.transport.flower import run_flower

        return run_flower(STAGES, redis_url=urls["redis_url"], address="127.0.0.1", basic_auth=None, **options)
    from workers.transport.dispatcher import run_dispatcher

    return run_dispatcher(STAGES, **urls, **{**DispatcherSettings().model_dump(), **options})


def _worker(urls: dict[str, Any], options: dict[str, Any]) -> int:
    from workers.llm.provider import build
    from workers.runtime.handler.resources import Resources
    from workers.transport.app import queue_names
    from workers.transport.worker import WorkerOptions, run_worker

    llm = build(
        api_key=None,
        base_url=options.pop("base_url", None),
        model=None,
        connect_timeout=30.0,
        timeout=60.0,
        max_connections=options.get("slots", 1_000),
    )
    defaults: dict[str, Any] = {
        "queues": tuple(queue_names(STAGES)),
        "slots": 1_000,
        "heartbeat_seconds": 5.0,
        "lease_seconds": 30.0,
        "grace_seconds": 2.0,
        "transitions_retention": timedelta(days=400),
    }
    return run_worker(STAGES, Resources(llm=llm), WorkerOptions(**urls, **{**defaults, **options}))


def _silence() -> None:
    """Turn job events off, to measure their cost."""
    from workers.transport.events import EventStream

    for name in EVENT_METHODS:
        setattr(EventStream, name, lambda *_, **__: None)


if __name__ == "__main__":
    sys.exit(main())
