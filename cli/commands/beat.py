"""``gristmill beat``: run this role in this process until SIGTERM."""

from datetime import timedelta

from cli.role import ready_servers, role_settings
from config.schedules import DEFAULT_SCHEDULES
from workers.runtime.handler.registry import discover
from workers.transport.beat import run_beat


def beat() -> int:
    """Fire the schedules. Any number may run; each time fires once."""
    settings = role_settings()
    registry = discover()
    urls = ready_servers(settings)
    return run_beat(
        registry,
        **urls,
        defaults=DEFAULT_SCHEDULES,
        transitions_retention=timedelta(days=settings.transitions_retention_days),
    )
