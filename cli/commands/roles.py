"""``gristmill worker``, ``dispatcher``, ``beat`` and ``flower``: one role in this process until SIGTERM."""

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.addresses import required
from workers.runtime.refusals import Refusal

if TYPE_CHECKING:
    from config.settings import Settings


def worker(
    queues: Annotated[
        str | None, typer.Option(metavar="A,B", help="Queues to serve; all of them if not given.")
    ] = None,
) -> int:
    """Run jobs of the given queues."""
    settings = _settings(worker={"queues": queues} if queues else None)
    from workers.runtime.handler.registry import discover

    registry = discover()  # a broken handler is told at once, whatever the servers do
    urls = _ready(settings)
    from workers.transport.app import queue_names
    from workers.transport.worker import WorkerOptions, run_worker

    known = queue_names(registry)
    if unknown := sorted(set(settings.worker.queues) - set(known)):
        raise Refusal(f"queues must be among {', '.join(known)}, got {', '.join(unknown)}")
    options = WorkerOptions(
        **urls,
        queues=settings.worker.queues or tuple(known),
        slots=settings.worker.slots,
        heartbeat_seconds=settings.worker.heartbeat_seconds,
        lease_seconds=settings.worker.lease_seconds,
        grace_seconds=settings.worker.grace_seconds,
        transitions_retention=timedelta(days=settings.transitions_retention_days),
        pool_size=settings.database.pool_size,
        patience=timedelta(hours=settings.llm.patience_hours),
    )
    from cli.provider import reporting_provider
    from cli.resources import resources

    llm, answering = reporting_provider(
        settings, database_url=urls["database_url"], name="worker:provider", shares_pauses=True
    )
    return run_worker(registry, resources(settings, llm=llm), options, answering=answering)


def dispatcher() -> int:
    """Give due jobs to the workers. Any number may run; one leads."""
    settings = _settings()
    from workers.runtime.handler.registry import discover

    registry = discover()
    urls = _ready(settings)
    from workers.transport.dispatcher import run_dispatcher

    return run_dispatcher(
        registry,
        **urls,
        batch_size=settings.dispatcher.batch_size,
        poll_seconds=settings.dispatcher.poll_seconds,
        redispatch_seconds=settings.dispatcher.redispatch_seconds,
    )


def beat() -> int:
    """Fire the schedules. Any number may run; each time fires once."""
    settings = _settings()
    from workers.runtime.handler.registry import discover

    registry = discover()
    urls = _ready(settings)
    from config.schedules import DEFAULT_SCHEDULES
    from workers.transport.beat import run_beat

    return run_beat(
        registry,
        **urls,
        defaults=DEFAULT_SCHEDULES,
        transitions_retention=timedelta(days=settings.transitions_retention_days),
    )


def flower() -> int:
    """Show jobs and workers in Flower."""
    settings = _settings()
    redis_url = required(settings, "redis_url")
    from workers.runtime.handler.registry import discover

    registry = discover()
    from cli.readiness import wait_for_redis
    from workers.transport.flower import run_flower

    asyncio.run(wait_for_redis(redis_url))
    secret = settings.flower.basic_auth
    return run_flower(
        registry,
        redis_url=redis_url,
        address=settings.flower.address,
        port=settings.flower.port,
        basic_auth=secret.get_secret_value() if secret else None,
    )


def _settings(**options: Any) -> "Settings":
    """Return the settings, with logging set up by them."""
    from config.logging import configure
    from config.settings import load

    settings = load(**{name: value for name, value in options.items() if value is not None})
    configure(settings.log_format, settings.log_level)
    return settings


def _ready(settings: "Settings") -> dict[str, str]:
    """Return the URLs once both servers answer and the schema serves this release."""
    from cli.readiness import wait_for_database, wait_for_redis

    urls = {name: required(settings, name) for name in ("database_url", "redis_url")}

    async def wait() -> None:
        await wait_for_redis(urls["redis_url"])
        await wait_for_database(urls["database_url"])

    asyncio.run(wait())
    return urls
