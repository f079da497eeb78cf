"""``gristmill dispatcher``: run this role in this process until SIGTERM."""

from cli.role import ready_servers, role_settings
from workers.llm.gates import gates_of
from workers.runtime.handler.registry import discover
from workers.runtime.tracing import start_tracing
from workers.transport.dispatcher import run_dispatcher


def dispatcher() -> int:
    """Give due jobs to the workers. Any number may run; one leads."""
    settings = role_settings()
    registry = discover()
    start_tracing("dispatcher")
    urls = ready_servers(settings)
    return run_dispatcher(
        registry,
        database_url=urls["database_url"],
        redis_url=urls["redis_url"],
        batch_size=settings.dispatcher.batch_size,
        poll_seconds=settings.dispatcher.poll_seconds,
        redispatch_seconds=settings.dispatcher.redispatch_seconds,
        gates=gates_of,
    )
