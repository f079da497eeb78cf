"""``gristmill gateway``: run this role in this process until SIGTERM."""

from typing import Annotated

import typer

from cli.gateway_resources import resources_of
from cli.role import ready_servers, role_settings
from gateway.server import run_gateway
from workers.runtime.handler.registry import discover
from workers.runtime.tracing import start_tracing


def gateway(
    address: Annotated[str | None, typer.Option("--host", metavar="ADDRESS", help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65_535, help="Port to listen on.")] = None,
) -> int:
    """Serve the HTTP interface. Any number may run."""
    given = {name: value for name, value in {"address": address, "port": port}.items() if value is not None}
    settings = role_settings(gateway=given or None)
    start_tracing("gateway")
    discover()  # a broken handler is reported before the servers are asked
    urls = ready_servers(settings)
    own = settings.gateway
    resources = resources_of(settings, database_url=urls["database_url"], redis_url=urls["redis_url"])
    return run_gateway(
        resources,
        address=own.address,
        port=own.port,
        grace_seconds=own.grace_seconds,
        trusted_proxies=own.trusted_proxies,
    )
