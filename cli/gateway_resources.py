"""What the gateway's app is given, made from the settings."""

from datetime import timedelta
from functools import partial
from importlib.metadata import version

from cli.provider import provider, read_routing
from cli.readiness import schema_problem
from config.settings import GatewaySettings, Settings, keys_of
from gateway.callers.authentication import open_authenticator
from gateway.callers.tokens import Issuer
from gateway.resources import Resources
from workers.llm.routing.routing import Routing
from workers.notifications.rules import CallbackRules
from workers.operations.keyring import Keyring
from workers.outbound.addresses import parse_networks
from workers.runtime.database import Transaction


def resources_of(settings: Settings, *, database_url: str, redis_url: str) -> Resources:
    """Return the resources of one gateway process."""
    own = settings.gateway

    async def routing(session: Transaction) -> Routing:
        return (await read_routing(session, settings)).routing

    return Resources(
        database_url=database_url,
        redis_url=redis_url,
        open_authenticator=partial(open_authenticator, issuer=_issuer(own), actor_key=_actor_key(own)),
        check_schema=schema_problem,
        read_routing=routing,
        open_model=lambda url: provider(settings, database_url=url, name="gateway"),
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


def _issuer(settings: GatewaySettings) -> Issuer | None:
    """Return who issues tokens; None: API keys only. The settings are set together or not at all."""
    if not (settings.issuer and settings.audience and settings.jwks_url):
        return None
    return Issuer(name=settings.issuer, audience=settings.audience, jwks_url=settings.jwks_url)


def _actor_key(settings: GatewaySettings) -> bytes | None:
    return bytes.fromhex(settings.actor_key.get_secret_value()) if settings.actor_key else None
