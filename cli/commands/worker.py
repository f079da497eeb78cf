"""``gristmill worker``: run this role in this process until SIGTERM."""

from datetime import timedelta
from typing import Annotated

import typer

from cli.batches import make_batches
from cli.provider import worker_provider
from cli.resources import make_resources
from cli.role import ready_servers, role_settings
from workers.runtime.handler.registry import discover
from workers.runtime.refusals import Refusal
from workers.runtime.tracing import start_tracing
from workers.transport.app import queue_names
from workers.transport.worker import WorkerOptions, run_worker


def worker(
    queues: Annotated[str | None, typer.Option(metavar="A,B", help="Queues to serve. Default: all queues.")] = None,
) -> int:
    """Run jobs of the given queues."""
    settings = role_settings(worker={"queues": queues} if queues else None)
    registry = discover()  # a broken handler is reported before the servers are asked
    start_tracing("worker")
    urls = ready_servers(settings)
    known = queue_names(registry)
    if unknown := sorted(set(settings.worker.queues) - set(known)):
        raise Refusal(f"queues must be among {', '.join(known)}, got {', '.join(unknown)}")
    options = WorkerOptions(
        database_url=urls["database_url"],
        redis_url=urls["redis_url"],
        queues=settings.worker.queues or tuple(known),
        slots=settings.worker.slots,
        heartbeat_seconds=settings.worker.heartbeat_seconds,
        lease_seconds=settings.worker.lease_seconds,
        grace_seconds=settings.worker.grace_seconds,
        transitions_retention=timedelta(days=settings.transitions_retention_days),
        pool_size=settings.database.pool_size,
        patience=None if settings.llm.patience_hours is None else timedelta(hours=settings.llm.patience_hours),
        idle_runs=settings.llm.idle_runs,
        idle_time=timedelta(hours=settings.llm.idle_hours),
    )
    url = urls["database_url"]
    llm, prices, report = worker_provider(
        settings, database_url=url, name="worker:provider", worker_id=options.worker_id
    )
    batches = make_batches(settings, database_url=url, name="worker:batches", model=llm, prices=prices)
    return run_worker(registry, make_resources(settings, llm=llm, batches=batches), options, answering=report)
