"""One client per provider and process: built in a thread, kept while unchanged, closed after its last call."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog

from workers.llm.routing.routing import Provider
from workers.runtime.handler.errors import Unavailable, describe
from workers.runtime.handler.ports import LanguageModel

log = structlog.get_logger(__name__)

# Makes the client of a provider. It takes half a second of CPU, of whatever thread calls it.
Make = Callable[[Provider], LanguageModel]


@dataclass(slots=True, eq=False)
class _Client:
    """A client and how many calls it makes. Once retired, the last of them closes it."""

    building: "asyncio.Task[LanguageModel]"
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    calls: int = 0
    retired: bool = False


class Clients:
    """The clients of one process."""

    def __init__(self, make: Make) -> None:
        self._make = make
        self._clients: dict[Provider, _Client] = {}
        self._closings: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def of(self, provider: Provider) -> AsyncIterator[LanguageModel]:
        """Yield the client of ``provider``; it stays open as long as the block lasts.

        Raise Unavailable where it cannot be built: people put settings right, often a moment later.
        """
        client = self._clients.get(provider)
        if client is None:
            building = asyncio.create_task(asyncio.to_thread(self._make, provider))
            client = self._clients[provider] = _Client(building)
        client.calls += 1
        try:
            try:
                # Shielded: one cancelled job must not take the client from all who wait for it.
                made = await asyncio.shield(client.building)
            except Exception as error:  # noqa: BLE001 - whatever it is, no other provider may be asked instead
                problem = f"provider {provider.name} cannot be used: {describe(error)}"
                raise Unavailable(problem, provider=provider.name, since=client.since, certain=True) from None
            yield made
        finally:
            client.calls -= 1
            self._close_if_done(client)

    def keep_only(self, providers: Iterable[Provider]) -> None:
        """Retire the clients of all others, and those that could not be built: they are tried again."""
        wanted = set(providers)
        for provider, client in list(self._clients.items()):
            if provider not in wanted or _is_broken(client):
                del self._clients[provider]
                self._retire(client)

    async def aclose(self) -> None:
        """Close every client; nothing is asked afterwards."""
        for client in self._clients.values():
            client.calls = 0
            self._retire(client)
        self._clients.clear()
        while self._closings:
            await asyncio.gather(*self._closings, return_exceptions=True)

    def _retire(self, client: _Client) -> None:
        client.retired = True
        self._close_if_done(client)

    def _close_if_done(self, client: _Client) -> None:
        if client.retired and not client.calls:
            closing = asyncio.create_task(_close(client))
            self._closings.add(closing)
            closing.add_done_callback(self._closings.discard)


def _is_broken(client: _Client) -> bool:
    building = client.building
    return building.done() and (building.cancelled() or building.exception() is not None)


async def _close(client: _Client) -> None:
    try:
        made = await client.building
    except Exception:  # noqa: BLE001 - it was never built, and the caller already has the error
        return
    try:
        await made.aclose()
    except Exception as error:  # noqa: BLE001 - nobody waits for it
        log.warning("provider_not_closed", error=describe(error))
