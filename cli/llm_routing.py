"""Providers and routes as this machine's processes follow them: rows, system settings and environment together."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from cli.session import in_session
from config.settings import Settings, keys_of, load
from workers.llm.routing.routing import Routing
from workers.llm.routing.tables import read
from workers.llm.routing.virtual import Environment, merged
from workers.operations.keyring import Keyring
from workers.operations.provider_choice import read_choice
from workers.runtime.database import Transaction

T = TypeVar("T")


def with_routing(question: Callable[[Transaction, Routing], Awaitable[T]]) -> T:
    """Return the answer to ``question``, put in one transaction, with the providers and routes that it sees."""
    settings = load()

    async def ask(session: Transaction) -> T:
        return await question(session, await read_routing(session, settings))

    return in_session(ask)


async def read_routing(session: Transaction, settings: Settings) -> Routing:
    """Return providers, routes and bindings."""
    keyring = Keyring(keys_of(settings))
    key = settings.openai_api_key.get_secret_value() if settings.openai_api_key else None
    environment = Environment(
        api_key=key,
        base_url=settings.openai_base_url,
        model=settings.llm.model,
        embedding_model=settings.llm.embedding_model,
    )
    choice = await read_choice(session, keyring=keyring, openai_key=key)
    rows = await read(session, decrypt=keyring.decrypt)
    return merged(environment, choice, providers=rows.providers, routes=rows.routes, bindings=rows.bindings)


def routing_now() -> Routing:
    """Return providers, routes and bindings, read in a transaction of its own."""

    async def same(_: Transaction, routing: Routing) -> Routing:
        return routing

    return with_routing(same)
