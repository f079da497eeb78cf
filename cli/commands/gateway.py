"""``gristmill gateway``: run this role in this process until SIGTERM."""

from datetime import timedelta
from functools import partial
from importlib.metadata import version
from typing import Annotated

import typer

from cli.provider import provider, read_routing
from cli.readiness import schema_problem
from cli.role import ready_servers, role_settings
from config.settings import GatewaySettings, keys_of
from gateway.callers.authentication import open_authenticator
from gateway.callers.tokens import Issuer
from gateway.resources import Resources
from gateway.server import run_gateway
from workers.llm.routing.routing import Routing
from workers.notifications.rules import CallbackRules
from workers.operations.keyring import Keyring
from workers.outbound.addresses import parse_networks
from workers.runtime.database import Transaction
from workers.runtime.handler.registry import discover


def gateway(
    address: Annotated[str | None, typer.Option("--host", metavar="ADDRESS", help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65_535, help="Port to listen on.")] = None,
) -> int:
    """Serve the HTTP interface. Any number may run."""
    given = {name: value for name, value in {"address": address, "port": port}.items() if value is not None}
    settings = role_settings(gateway=given or None)
    discover()  # a broken handler is reported before the servers are asked
    urls = ready_servers(settings)
    own = settings.gateway

    async def routing(session: Transaction) -> Routing:
        return (await read_routing(session, settings)).routing

    resources = Resources(
        database_url=urls["database_url"],
        redis_url=urls["redis_url"],
        open_authenticator=partial(open_authenticator, issuer=_issuer(own), actor_key=_actor_key(own)),
        check_schema=schema_problem,
        read_routing=routing,
        open_model=lambda database_url: provider(settings, database_url=database_url, name="gateway"),
        keyring=Keyring(keys_of(settings)),
        transitions_retention=timedelta(days=settings.transitions_retention_days),
        pool_size=settings.database.pool_size,
        version=version("gristmill"),
        requests_per_minute=own.requests_per_minute,
        concurrency=own.concurrency,
        queue=own.queue,
        max_connections=own.max_connections,
        callbacks=CallbackRules(keyring=Keyring(keys_of(settings)), allow=parse_networks(settings.outbound.allow)),
        metrics_token=own.metrics_token.get_secret_value() if own.metrics_token else None,
    )
    return run_gateway(
        resources,
        address=own.address,
        port=own.port,
        grace_seconds=own.grace_seconds,
        trusted_proxies=own.trusted_proxies,
    )


def _issuer(settings: GatewaySettings) -> Issuer | None:
    """Return who issues tokens; None: API keys only. The settings are set together or not at all."""
    if not (settings.issuer and settings.audience and settings.jwks_url):
        return None
    return Issuer(name=settings.issuer, audience=settings.audience, jwks_url=settings.jwks_url)


def _actor_key(settings: GatewaySettings) -> bytes | None:
    return bytes.fromhex(settings.actor_key.get_secret_value()) if settings.actor_key else None
