"""A provider that is away is asked by one call at a time: everybody else waits, in this process and in all others.

A pause belongs to one model of one server. It begins when the provider says that it cannot serve anybody, or when
three different requests in a row have failed; it grows with the time that the provider is away, to a minute. When it
has passed, one call goes through. If that succeeds, the pause is over.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

import structlog

from workers.runtime.handler.errors import Unavailable, describe

log = structlog.get_logger(__name__)

FIRST, LONGEST = timedelta(seconds=2), timedelta(minutes=1)
# Different requests that fail in a row. One alone may be the request's own fault: llama.cpp answers some with 500.
FAILURES = 3
# Those who wait come back one after the other, over a quarter of the time that the provider has been away by now.
MOST_SPREAD = timedelta(minutes=5)
# A call that probes is over by then, or its process is.
PROBE = timedelta(minutes=3)


@dataclass(frozen=True, slots=True)
class Away:
    """A pause as all processes see it: since when the provider is away, why, for how long nobody is to ask."""

    since: datetime
    wait: timedelta
    reason: str


class PauseStore(Protocol):
    """Where the processes share their pauses."""

    async def find(self, provider: str) -> Away | None:
        """Return the pause of ``provider``, if there is one."""

    async def begin(
        self, provider: str, reason: str, *, asked: timedelta, first: timedelta, longest: timedelta
    ) -> Away:
        """Begin or lengthen a pause: by ``asked``, or by as long as it lasts, from ``first`` to ``longest``."""

    async def probe(self, provider: str, *, lasts: timedelta) -> Away | bool:
        """Take the one call of a pause that has passed: True. Or return what to wait for; False where it is over."""

    async def end(self, provider: str) -> None:
        """End the pause of ``provider``."""


@dataclass(slots=True)
class _Provider:
    """What this process knows of one provider; times are of the loop's clock."""

    away: Away | None = None
    paused_until: float = 0.0
    probing: bool = False
    known: bool = False
    learning: asyncio.Task[None] | None = None
    failing_since: datetime | None = None
    failed: set[str] = field(default_factory=set)
    answered_at: float | None = None


class Gate:
    """Lets calls of a provider through, or raises Unavailable without one.

    Without a ``store`` each process finds out by itself; what the store fails for, too.
    """

    def __init__(
        self,
        store: PauseStore | None = None,
        *,
        first: timedelta = FIRST,
        longest: timedelta = LONGEST,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._first, self._longest = first, longest
        self._draw = draw
        self._providers: dict[str, _Provider] = {}

    async def check(self, server: str, model: str) -> None:
        """Raise Unavailable while nobody is to ask this model of ``server``."""
        provider = await self._provider(server, model)
        if provider.away is not None and (provider.probing or _now() < provider.paused_until):
            raise self._refusal(provider, provider.away, server)

    @asynccontextmanager
    async def asking(self, server: str, model: str, *, request: str) -> AsyncIterator[None]:
        """Enclose one call. ``request`` tells requests apart; Unavailable raised within is told with since when."""
        provider = await self._provider(server, model)
        probes = provider.away is not None and await self._probe(provider, server, model)
        try:
            yield
        except Unavailable as error:
            raise await self.failed(server, model, error, request=request) from error
        except asyncio.CancelledError:
            raise
        except Exception:
            await self._answered(provider, server, model)
            raise
        else:
            await self._answered(provider, server, model)
        finally:
            if probes:
                provider.probing = False

    async def failed(self, server: str, model: str, error: Unavailable, *, request: str) -> Unavailable:
        """Note that a call failed; return what its job is told."""
        provider = await self._provider(server, model)
        provider.failing_since = provider.failing_since or datetime.now(UTC)
        provider.failed.add(request)
        if provider.away is not None or error.certain or len(provider.failed) >= FAILURES:
            await self._begin(provider, server, model, error)
        away = provider.away or Away(provider.failing_since, self._first, error.reason)
        answered = None if provider.answered_at is None else timedelta(seconds=_now() - provider.answered_at)
        wait = max(self._remaining(provider), error.asked or self._first)
        return Unavailable(
            error.reason,
            provider=server,
            since=away.since,
            delay=self._spread(wait, away.since),
            asked=error.asked,
            certain=error.certain,
            paused=False,
            answered=answered,
        )

    async def _provider(self, server: str, model: str) -> _Provider:
        """Return what is known of a provider; at its first call, once it is read what other processes know."""
        provider = self._providers.setdefault(f"{server}|{model}", _Provider())
        if not provider.known and self._store is not None:
            if provider.learning is None:
                provider.learning = asyncio.create_task(self._learn(provider, f"{server}|{model}", self._store))
            await asyncio.shield(provider.learning)  # one cancelled job must not take it from all who wait
        return provider

    async def _learn(self, provider: _Provider, name: str, store: PauseStore) -> None:
        try:
            self._keep(provider, await store.find(name))
        except Exception as error:  # noqa: BLE001 - what is not known is found out by asking
            log.warning("provider_pauses_not_read", error=describe(error))
        provider.known = True

    async def _probe(self, provider: _Provider, server: str, model: str) -> bool:
        """Become the one who asks a provider that was away; False where it is back.

        Raise Unavailable where another is, or it is too early.
        """
        assert provider.away is not None
        if provider.probing or _now() < provider.paused_until:
            raise self._refusal(provider, provider.away, server)
        provider.probing = True
        try:
            found: Away | bool = True
            if self._store is not None:
                found = await self._store.probe(f"{server}|{model}", lasts=PROBE)
        except Exception as error:  # noqa: BLE001 - then each process probes for itself
            log.warning("provider_pauses_not_read", error=describe(error))
            found = True
        except asyncio.CancelledError:
            provider.probing = False
            raise
        if found is False:
            self._keep(provider, None)
            provider.probing = False
        elif isinstance(found, Away):
            self._keep(provider, found)
            provider.probing = False
            raise self._refusal(provider, found, server)
        return provider.probing

    async def _begin(self, provider: _Provider, server: str, model: str, error: Unavailable) -> None:
        """Pause, or pause on after a probe. Of many who fail at once the first speaks for all."""
        asked, remaining = error.asked or timedelta(), self._remaining(provider)
        if not provider.probing and remaining > timedelta() and remaining >= asked:
            return
        begun = provider.away is None
        assert provider.failing_since is not None
        since = provider.away.since if provider.away else provider.failing_since
        lasted = datetime.now(UTC) - since
        away = Away(since, max(asked, min(max(lasted, self._first), self._longest)), error.reason)
        self._keep(provider, away)  # before anything is awaited: who fails meanwhile has nothing to do
        if self._store is not None:
            bounds = {"asked": asked, "first": self._first, "longest": self._longest}
            try:
                self._keep(provider, await self._store.begin(f"{server}|{model}", error.reason, **bounds))
            except Exception as unkept:  # noqa: BLE001 - the pause holds in this process
                log.warning("provider_pauses_not_kept", error=describe(unkept))
        if begun and self._store is not None:  # else it is a person's command, which says so itself
            log.warning("provider_away", provider=server, model=model, reason=error.reason)

    async def _answered(self, provider: _Provider, server: str, model: str) -> None:
        provider.answered_at = _now()
        provider.failed.clear()
        provider.failing_since = None
        if provider.away is None:
            return
        since = provider.away.since
        self._keep(provider, None)
        if self._store is not None:
            log.info("provider_back", provider=server, model=model, since=since.isoformat())
            try:
                await self._store.end(f"{server}|{model}")
            except Exception as error:  # noqa: BLE001 - another process asks once in vain
                log.warning("provider_pauses_not_kept", error=describe(error))

    def _keep(self, provider: _Provider, away: Away | None) -> None:
        provider.away = away
        provider.paused_until = _now() + away.wait.total_seconds() if away else 0.0

    def _remaining(self, provider: _Provider) -> timedelta:
        return timedelta(seconds=max(provider.paused_until - _now(), 0.0)) if provider.away else timedelta()

    def _refusal(self, provider: _Provider, away: Away, server: str) -> Unavailable:
        wait = max(self._remaining(provider), self._first if provider.probing else timedelta())
        delay = self._spread(wait, away.since)
        return Unavailable(away.reason, provider=server, since=away.since, delay=delay, paused=True)

    def _spread(self, wait: timedelta, since: datetime) -> timedelta:
        """Return ``wait`` and a part of the time over which those who wait come back."""
        spread = min(max((datetime.now(UTC) - since) / 4, self._first), MOST_SPREAD)
        return wait + spread * self._draw()


def _now() -> float:
    return asyncio.get_running_loop().time()
