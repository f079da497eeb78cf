"""A provider that is away is asked by one call at a time: everybody else waits, in this process and in all others.

A pause belongs to a whole server, or to one model of it. It begins when a failure says by itself what is away (a
refused connection is the server's), or when three different requests in a row have failed. If requests for three
different models have failed in a row, the server is away. A pause grows with the time that the provider is away, to a
minute. When it has passed, one call goes through. If that succeeds, the pause is over.

An account without money is the pause of a key, not of a server: other keys of that server go on.
"""

import asyncio
import random
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

import structlog

from workers.runtime.handler.errors import Unavailable, describe

log = structlog.get_logger(__name__)

FIRST_PAUSE, MAX_PAUSE = timedelta(seconds=2), timedelta(minutes=1)
# Different requests that fail in a row. One alone may be the request's own fault: llama.cpp answers some with 500.
FAILURES = 3
# Those who wait come back one after the other, over a quarter of the time that the provider has been away by now.
MAX_SPREAD = timedelta(minutes=5)
# A call that probes is over so soon after its own timeout, or its process is dead.
PROBE_MARGIN = timedelta(seconds=5)
DEFAULT_TIMEOUT = timedelta(minutes=2)
# Models of one server that are remembered. Tenants choose their names.
MAX_MODELS = 1_000


class OutOfQuotaError(Unavailable):
    """The account of the key that was sent has no money or quota left."""


@dataclass(frozen=True, slots=True)
class Away:
    """A pause as all processes see it: since when the provider is away, why, for how long nobody is to ask.

    ``begun``: it has just begun, and no other process knew of it.
    """

    since: datetime
    wait: timedelta
    reason: str
    begun: bool = field(default=False, compare=False)


class PauseStore(Protocol):
    """Where the processes share their pauses. A ``provider`` is ``<server>`` or ``<server>|<model>``."""

    async def find(self, server: str) -> Mapping[str, Away]:
        """Return the pauses of ``server`` and of its models, by provider."""

    async def begin(
        self, provider: str, reason: str, *, asked: timedelta, first: timedelta, longest: timedelta
    ) -> Away | None:
        """Begin or lengthen a pause: by ``asked``, or by as long as it lasts, from ``first`` to ``longest``."""

    async def probe(self, provider: str, *, lasts: timedelta) -> Away | bool:
        """Take the one call of a pause that has passed: True. Or return what to wait for; False where it is over."""

    async def release(self, provider: str) -> None:
        """Give back the one call of a pause: it was not made, or nobody waits for its answer."""

    async def end(self, provider: str) -> None:
        """End the pause of ``provider``."""


@dataclass(slots=True)
class _Provider:
    """What this process knows of a server or of one model of it; times are of the loop's clock."""

    name: str
    away: Away | None = None
    paused_until: float = 0.0
    probing: bool = False
    # Whether the pause is in the store, and when this process last heard of it.
    is_shared: bool = False
    heard_at: float = 0.0
    failing_since: datetime | None = None
    failed: set[str] = field(default_factory=set)
    answered_at: float | None = None

    def keep(self, away: Away | None, *, is_shared: bool = False) -> None:
        """Note a pause, or that there is none."""
        self.away = away
        self.is_shared = is_shared
        self.heard_at = _now()
        self.paused_until = _now() + away.wait.total_seconds() if away else 0.0

    def note_failure(self, request: str) -> None:
        """Count a failure. More than :data:`FAILURES` need not be told apart."""
        self.failing_since = self.failing_since or datetime.now(UTC)
        if len(self.failed) < FAILURES:
            self.failed.add(request)

    def note_answer(self) -> None:
        """Forget the failures before an answer."""
        self.answered_at = _now()
        self.failed.clear()
        self.failing_since = None

    @property
    def is_failing(self) -> bool:
        """Whether so many different requests have failed in a row that it is away."""
        return len(self.failed) >= FAILURES

    @property
    def remaining(self) -> timedelta:
        """For how long nobody is to ask."""
        return timedelta(seconds=max(self.paused_until - _now(), 0.0)) if self.away else timedelta()

    @property
    def is_closed(self) -> bool:
        """Whether nobody is to ask now."""
        return self.away is not None and (self.probing or _now() < self.paused_until)


@dataclass(slots=True)
class _Server:
    """A server and its models, the one that was used last at the end."""

    whole: _Provider
    models: OrderedDict[str, _Provider] = field(default_factory=OrderedDict)
    known: bool = False
    learning: asyncio.Task[None] | None = None

    def model(self, model: str) -> _Provider:
        """Return what is known of one model; of too many, the one that was used longest ago is forgotten."""
        found = self.models.setdefault(model, _Provider(f"{self.whole.name}|{model}"))
        self.models.move_to_end(model)
        if len(self.models) > MAX_MODELS:
            self.models.popitem(last=False)
        return found


class Gate:
    """Lets calls of a provider through, or raises Unavailable without one.

    Without a ``store`` each process finds out by itself; what the store fails for, too. ``on_back`` is told what a call
    of this process has found to be back, and what another process or a person has ended.
    """

    def __init__(
        self,
        store: PauseStore | None = None,
        *,
        first: timedelta = FIRST_PAUSE,
        longest: timedelta = MAX_PAUSE,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.on_back: Callable[[str], None] | None = None
        self._store = store
        self._first, self._longest = first, longest
        self._draw = draw
        self._servers: dict[str, _Server] = {}

    async def check(self, server: str, model: str, *, key: str | None = None) -> None:
        """Raise Unavailable while nobody is to ask this model of ``server``, or to send this key."""
        for provider in await self._providers(server, model, key):
            if provider.away is not None and provider.is_closed:
                raise self._refusal(provider, provider.away, _name_of(provider, server))

    @asynccontextmanager
    async def asking(
        self, server: str, model: str, *, request: str, within: timedelta = DEFAULT_TIMEOUT, key: str | None = None
    ) -> AsyncIterator[None]:
        """Enclose one call. ``request`` tells requests apart; Unavailable raised within is told with since when.

        ``within`` is the call's own timeout. ``key`` names the key that is sent: OutOfQuotaError pauses that one, and
        the Unavailable that is raised then has its name as ``provider``. Without it, the server is paused.
        """
        providers = await self._providers(server, model, key)
        probes: list[_Provider] = []
        try:
            for provider in providers:
                told = _name_of(provider, server)
                if provider.away is not None and await self._probe(provider, told, lasts=within + PROBE_MARGIN):
                    probes.append(provider)
            try:
                yield
            except OutOfQuotaError as error:
                if key is None:
                    raise await self.failed(server, model, error, request=request) from error
                await self._answered(*providers[:2])
                raise await self.failed(key, "", error, request=request) from error
            except Unavailable as error:
                raise await self.failed(server, model, error, request=request) from error
            except asyncio.CancelledError:
                raise
            except Exception:
                await self._answered(*providers)
                raise
            else:
                await self._answered(*providers)
        finally:
            for provider in probes:
                await self._give_back(provider)

    async def failed(self, server: str, model: str, error: Unavailable, *, request: str) -> Unavailable:
        """Note that a call failed; return the error for its job."""
        whole, own = (await self._providers(server, model))[:2]
        if error.of == "model":
            await self._answered(whole)
        else:
            whole.note_failure(request if error.of == "server" else f"model {model}")
        if error.of != "server":
            own.note_failure(request)
        if whole.away is not None or (error.certain and error.of == "server") or whole.is_failing:
            await self._begin(whole, error)
        elif own.away is not None or error.certain or own.is_failing:
            await self._begin(own, error)
        blamed = next((one for one in (whole, own) if one.away is not None), own)
        since = blamed.failing_since or whole.failing_since or datetime.now(UTC)
        away = blamed.away or Away(since, self._first, error.reason)
        answered = None if own.answered_at is None else timedelta(seconds=_now() - own.answered_at)
        wait = max(blamed.remaining, error.asked or self._first)
        return Unavailable(
            error.reason,
            provider=server,
            since=away.since,
            delay=self._spread(wait, away.since),
            asked=error.asked,
            certain=error.certain,
            of=error.of,
            paused=False,
            answered=answered,
        )

    async def follow(self, pauses: Mapping[str, Away], *, began: float) -> None:
        """Take what the store says of all pauses, read at or after ``began`` (of the loop's clock).

        Pauses of other processes hold here at once, and those that somebody has ended are over. ``on_back`` is told of
        these too: jobs that were woken before this process knew of the end were refused once more.
        """
        for server in self._servers.values():
            for provider in (server.whole, *server.models.values()):
                if (shared := pauses.get(provider.name)) is not None:
                    if not provider.probing and provider.heard_at < began:
                        provider.keep(shared, is_shared=True)
                elif provider.away is not None and provider.is_shared and provider.heard_at < began:
                    provider.keep(None)
                    provider.probing = False
                    if self.on_back is not None:
                        self.on_back(provider.name)

    async def _providers(self, server: str, model: str, key: str | None = None) -> tuple[_Provider, ...]:
        """Return what is known of a server, its model and a key; at their first call, once shared pauses are read."""
        found = await self._known(server)
        providers = (found.whole, found.model(model))
        return providers if key is None else (*providers, (await self._known(key)).whole)

    async def _known(self, server: str) -> _Server:
        found = self._servers.setdefault(server, _Server(_Provider(server)))
        if not found.known and self._store is not None:
            if found.learning is None:
                found.learning = asyncio.create_task(self._learn(found, self._store))
            await asyncio.shield(found.learning)  # one cancelled job must not take it from all who wait
        return found

    async def _learn(self, server: _Server, store: PauseStore) -> None:
        try:
            for name, away in (await store.find(server.whole.name)).items():
                provider = server.whole if name == server.whole.name else server.model(name.partition("|")[2])
                provider.keep(away, is_shared=True)
        except Exception as error:  # noqa: BLE001 - what is not known is found out by asking
            log.warning("provider_pauses_not_read", error=describe(error))
        server.known = True

    async def _probe(self, provider: _Provider, server: str, *, lasts: timedelta) -> bool:
        """Become the one who asks a provider that was away; False where it is back.

        Raise Unavailable where another is, or it is too early.
        """
        assert provider.away is not None
        if provider.is_closed:
            raise self._refusal(provider, provider.away, server)
        provider.probing = True
        try:
            found = await self._store.probe(provider.name, lasts=lasts) if self._store is not None else True
        except Exception as error:  # noqa: BLE001 - then each process probes for itself
            log.warning("provider_pauses_not_read", error=describe(error))
            found = True
        except asyncio.CancelledError:
            await self._give_back(provider)  # the store may have heard of it
            raise
        if found is False:
            provider.keep(None)
            provider.probing = False
        elif isinstance(found, Away):
            provider.keep(found, is_shared=True)
            provider.probing = False
            raise self._refusal(provider, found, server)
        return provider.probing

    async def _give_back(self, provider: _Provider) -> None:
        """Let the next one probe, in every process, if a probe has no result: it was cancelled or not made."""
        if not provider.probing:
            return
        provider.probing = False
        if self._store is not None:
            # In a task of its own: whoever is cancelled twice, or is the last of its process, frees it too.
            await asyncio.shield(asyncio.create_task(self._release(provider.name, self._store)))

    async def _release(self, name: str, store: PauseStore) -> None:
        try:
            await store.release(name)
        except Exception as error:  # noqa: BLE001 - it ends by itself, soon after the call would have
            log.warning("provider_pauses_not_kept", error=describe(error))

    async def _begin(self, provider: _Provider, error: Unavailable) -> None:
        """Pause, or pause on after a probe. Of many who fail at once the first speaks for all."""
        asked, remaining = error.asked or timedelta(), provider.remaining
        if not provider.probing and remaining > timedelta() and remaining >= asked:
            return
        begun = provider.away is None
        since = provider.away.since if provider.away else provider.failing_since or datetime.now(UTC)
        lasted = datetime.now(UTC) - since
        # Before anything is awaited: who fails meanwhile has nothing to do.
        provider.keep(Away(since, max(asked, min(max(lasted, self._first), self._longest)), error.reason))
        if self._store is not None:
            bounds = {"asked": asked, "first": self._first, "longest": self._longest}
            try:
                if shared := await self._store.begin(provider.name, error.reason, **bounds):
                    provider.keep(shared, is_shared=True)
                    begun = begun and shared.begun  # of all processes one tells it
            except Exception as unkept:  # noqa: BLE001 - the pause holds in this process
                log.warning("provider_pauses_not_kept", error=describe(unkept))
            else:
                provider.probing = False
        if begun and self._store is not None:  # else it is a person's command, which says so itself
            log.warning("provider_away", provider=provider.name, reason=error.reason)

    async def _answered(self, *providers: _Provider) -> None:
        for provider in providers:
            provider.note_answer()
            if provider.away is None:
                continue
            since = provider.away.since
            provider.keep(None)
            provider.probing = False
            if self.on_back is not None:
                self.on_back(provider.name)
            if self._store is not None:
                log.info("provider_back", provider=provider.name, since=since.isoformat())
                try:
                    await self._store.end(provider.name)
                except Exception as error:  # noqa: BLE001 - another process asks once in vain
                    log.warning("provider_pauses_not_kept", error=describe(error))

    def _refusal(self, provider: _Provider, away: Away, server: str) -> Unavailable:
        wait = max(provider.remaining, self._first if provider.probing else timedelta())
        delay = self._spread(wait, away.since)
        return Unavailable(away.reason, provider=server, since=away.since, delay=delay, paused=True)

    def _spread(self, wait: timedelta, since: datetime) -> timedelta:
        """Return ``wait`` and a part of the time over which those who wait come back."""
        spread = min(max((datetime.now(UTC) - since) / 4, self._first), MAX_SPREAD)
        return wait + spread * self._draw()


def _name_of(provider: _Provider, server: str) -> str:
    """Return who is said to be away: the server, also for one model of it, or the key."""
    return server if provider.name.startswith(server) else provider.name


def _now() -> float:
    return asyncio.get_running_loop().time()
