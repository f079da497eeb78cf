"""Providers and routes as this machine's processes follow them: rows, system settings and environment together."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from cli.provider import read_routing
from cli.session import in_session
from config.settings import load
from workers.llm.routing.routing import Routing
from workers.runtime.database import Transaction

T = TypeVar("T")


def with_routing(question: Callable[[Transaction, Routing], Awaitable[T]]) -> T:
    """Return the answer to ``question``, put in one transaction, with the providers and routes that it sees."""
    settings = load()

    async def ask(session: Transaction) -> T:
        return await question(session, (await read_routing(session, settings)).routing)

    return in_session(ask)


def routing_now() -> Routing:
    """Return providers, routes and bindings, read in a transaction of its own."""

    async def same(_: Transaction, routing: Routing) -> Routing:
        return routing

    return with_routing(same)
