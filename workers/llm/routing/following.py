"""Keep a process up to date with the routing: read at most every two seconds, by one caller for all."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import structlog

from workers.llm.pauses import Away
from workers.llm.routing.routing import Provider, Routing
from workers.runtime.handler.errors import Unavailable, describe

log = structlog.get_logger(__name__)

LOOK_SECONDS = 2.0
# A look that takes longer goes on by itself, and callers with what they had.
PATIENCE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look found. ``pauses`` is None where nobody shares pauses."""

    routing: Routing
    pauses: Mapping[str, Away] | None = field(default=None)


Look = Callable[[], Awaitable[Seen]]
# Gets what was found, what there was before, and when the look began (of the loop's clock).
OnLook = Callable[[Seen, Routing | None, float], Awaitable[None]]


class Following:
    """The routing of the moment, a few seconds late at most.

    ``look`` is called when something is asked here. While it fails, as when the database is away, the last routing
    stands; before the first one, no call is made. ``on_look`` is awaited after each
    look, before anybody gets its result.
    """

    def __init__(self, look: Look, on_look: OnLook, *, look_seconds: float = LOOK_SECONDS) -> None:
        self._read = look
        self._on_look = on_look
        self._look_seconds = look_seconds
        self._routing: Routing | None = None
        self._look: asyncio.Task[None] | None = None
        self._look_started = self._next_look = 0.0

    @property
    def last(self) -> Routing | None:
        """What was found last, None before the first look."""
        return self._routing

    async def routing(self) -> Routing:
        """Return the routing of the moment; raise Unavailable as long as none was ever read."""
        now = asyncio.get_running_loop().time()
        if self._look is None and (self._routing is None or now >= self._next_look):
            self._begin(now)
        if self._look is not None:
            if self._routing is None:
                # Shielded: one cancelled job must not take the answer from all who wait for it.
                await asyncio.shield(self._look)
            elif (patience := self._look_started + PATIENCE_SECONDS - now) > 0:
                await asyncio.wait({self._look}, timeout=patience)
        assert self._routing is not None
        return self._routing

    async def look_again(self) -> Routing:
        """Return the routing as it is after this call, for what was not in the last: it may be a second old."""
        if self._look is not None:
            await asyncio.wait({self._look}, timeout=PATIENCE_SECONDS)
        if self._look is None:
            self._next_look = 0.0
        return await self.routing()

    async def aclose(self) -> None:
        """End the look that is under way: what it reads with is released next."""
        if (look := self._look) is not None:
            look.cancel()
            await asyncio.gather(look, return_exceptions=True)

    def _begin(self, now: float) -> None:
        self._look_started = now
        self._look = asyncio.create_task(self._follow(now))
        self._look.add_done_callback(self._looked)

    async def _follow(self, began: float) -> None:
        try:
            seen = await self._read()
        except Exception as error:  # noqa: BLE001 - whatever it is, the last routing stands
            log.warning("routing_not_followed", error=describe(error))
            if self._routing is None:
                raise Unavailable(f"the choice of a provider cannot be followed: {describe(error)}") from None
            return
        before, self._routing = self._routing, seen.routing
        for name in changed(before, seen.routing):
            log.info("provider_chosen" if name in seen.routing.providers else "provider_removed", provider=name)
        await self._on_look(seen, before, began)

    def _looked(self, look: "asyncio.Task[None]") -> None:
        self._look = None
        self._next_look = asyncio.get_running_loop().time() + self._look_seconds
        if not look.cancelled() and (error := look.exception()) is not None and not isinstance(error, Unavailable):
            log.warning("routing_not_followed", error=describe(error))


def changed(before: Routing | None, now: Routing) -> list[str]:
    """Return the names of the providers that are others than they were; none at the first look."""
    if before is None:
        return []
    names = {*before.providers, *now.providers}
    return sorted(name for name in names if before.providers.get(name) != now.providers.get(name))


def released(before: Routing | None, now: Routing) -> list[Provider]:
    """Return the providers that may be asked again or elsewhere: their jobs need not wait any longer. Pure."""
    if before is None:
        return []
    found = []
    for name, provider in now.providers.items():
        old = before.providers.get(name)
        if old is not None and (old != provider or (old.paused_at is not None and provider.paused_at is None)):
            found.append(provider)
    return found
