"""A language model that follows the operators' choice of a provider while everything runs."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn, Protocol, TypeVar

import structlog
from pydantic import BaseModel

from workers.runtime.handler.errors import Retryable, Unavailable, describe
from workers.runtime.handler.ports import (
    Answer,
    EmbeddingLimits,
    Embeddings,
    LanguageModel,
    Message,
    OfflineRule,
    Purpose,
)

log = structlog.get_logger(__name__)

T = TypeVar("T", bound=BaseModel)

LOOK_SECONDS = 2.0
# A look that takes longer goes on by itself, and callers with whom they had.
PATIENCE_SECONDS = 1.0


class Choice(Protocol):
    """Who is to answer, as plain values that compare by value. None: the provider's own, or no such thing.

    Without a ``provider`` it is the environment's, asked for the models that are named here in the place of its own.
    ``problem`` says why the choice cannot be followed: every call fails with it, rather than go elsewhere.
    """

    @property
    def provider(self) -> str | None: ...
    @property
    def base_url(self) -> str | None: ...
    @property
    def api_key(self) -> str | None: ...
    @property
    def llm_model(self) -> str | None: ...
    @property
    def embedding_model(self) -> str | None: ...
    @property
    def problem(self) -> str | None: ...


Choose = Callable[[], Awaitable[Choice | None]]


@dataclass(slots=True)
class _InUse:
    """A provider and how many calls it is answering. Once retired, the last of them closes it.

    ``makeshift``: it stands in for one that could not be built, which is tried again at every look.
    """

    model: LanguageModel
    makeshift: bool = False
    calls: int = 0
    retired: bool = False


class SwitchingModel:
    """Asks whom ``choose`` names, a few seconds after it names another at most.

    ``choose`` is asked when something is asked here, at most every ``look_seconds``, by one caller for all. While it
    fails, as when the database is away, the last choice stands; before the first, nothing is asked of anybody.
    ``make`` builds a provider, in a thread, for it may take a second; for None the environment's. While that fails,
    every call fails with the reason: nothing goes to a provider that operators turned away from. Calls under way end
    with the provider they began with, which is closed after the last of them. ``release`` frees what ``choose`` holds.
    """

    def __init__(
        self,
        *,
        choose: Choose,
        make: Callable[[Choice | None], LanguageModel],
        release: Callable[[], Awaitable[None]] | None = None,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._choose = choose
        self._make = make
        self._release = release
        self._look_seconds = look_seconds
        self._choice: Choice | None = None
        self._in_use: _InUse | None = None
        self._look: asyncio.Task[None] | None = None
        self._look_started = self._next_look = 0.0
        self._closings: set[asyncio.Task[None]] = set()

    @property
    def embedding_limits(self) -> EmbeddingLimits:
        return self._in_use.model.embedding_limits if self._in_use else EmbeddingLimits()

    async def resolve(self, model: str) -> str:
        """Return who will answer for ``model``, by the provider of the moment."""
        async with self._chosen() as provider:
            return await provider.resolve(model)

    async def parse(
        self,
        messages: Sequence[Message],
        *,
        into: type[T],
        model: str,
        parameters: Mapping[str, Any] | None = None,
        offline: OfflineRule | None = None,
        max_tokens: int | None = None,
        share_for: timedelta | None = None,
    ) -> Answer[T]:
        """Ask the provider of the moment."""
        async with self._chosen() as provider:
            return await provider.parse(
                messages,
                into=into,
                model=model,
                parameters=parameters,
                offline=offline,
                max_tokens=max_tokens,
                share_for=share_for,
            )

    async def embedding_model(self) -> str:
        """Return the embedding model of the moment."""
        async with self._chosen() as provider:
            return await provider.embedding_model()

    async def embed(self, texts: Sequence[str], *, model: str, purpose: Purpose = "document") -> Embeddings:
        """Return vectors of ``model``; raise Retryable where another has been chosen since: ask for its name again."""
        async with self._chosen() as provider:
            if (current := await provider.embedding_model()) != model:
                raise Retryable(f"embedding model is {current!r} now, no longer {model!r}")
            return await provider.embed(texts, model=model, purpose=purpose)

    async def aclose(self) -> None:
        """Close every provider, and what the choice is read with."""
        if (look := self._look) is not None:
            look.cancel()
            # What it reads with is released below: it must have let go of it by then.
            await asyncio.gather(look, return_exceptions=True)
        self._replace(None)
        await asyncio.gather(*self._closings, return_exceptions=True)
        if self._release is not None:
            await self._release()

    @asynccontextmanager
    async def _chosen(self) -> AsyncIterator[LanguageModel]:
        """Yield the provider of the moment; it stays open as long as the block lasts."""
        in_use = await self._up_to_date()
        in_use.calls += 1
        try:
            yield in_use.model
        finally:
            in_use.calls -= 1
            self._close_if_done(in_use)

    async def _up_to_date(self) -> _InUse:
        now = asyncio.get_running_loop().time()
        if self._look is None and (self._in_use is None or now >= self._next_look):
            self._look_started = now
            self._look = asyncio.create_task(self._follow())
            self._look.add_done_callback(self._looked)
        if self._look is not None:
            if self._in_use is None:
                # Shielded: one cancelled job must not take the answer from all who wait for it.
                await asyncio.shield(self._look)
            elif (patience := self._look_started + PATIENCE_SECONDS - now) > 0:
                await asyncio.wait({self._look}, timeout=patience)
        assert self._in_use is not None
        return self._in_use

    async def _follow(self) -> None:
        """Read the choice and, if it is another, put its provider in the place of the last."""
        try:
            choice = await self._choose()
        except Exception as error:  # noqa: BLE001 - whatever it is, the last choice stands
            log.warning("provider_choice_not_followed", error=describe(error))
            if self._in_use is None:
                raise Unavailable(f"the choice of a provider cannot be followed: {describe(error)}") from None
            return
        if self._in_use is not None and choice == self._choice and not self._in_use.makeshift:
            return
        made = await asyncio.to_thread(self._built, choice)
        switched = self._in_use is not None
        self._choice = choice
        self._replace(made)
        if (choice or switched) and not made.makeshift:
            log.info("provider_chosen", provider=(choice and choice.provider) or "of the environment")

    def _built(self, choice: Choice | None) -> _InUse:
        """Return the provider that ``choice`` names, or one that fails every call where it cannot be built."""
        try:
            return _InUse(self._make(choice))
        except Exception as error:  # noqa: BLE001 - whatever it is, no other provider may be asked instead
            log.warning("provider_choice_not_followed", error=describe(error))
            return _InUse(Unusable(f"the chosen provider cannot be used: {describe(error)}"), makeshift=True)

    def _looked(self, look: "asyncio.Task[None]") -> None:
        self._look = None
        self._next_look = asyncio.get_running_loop().time() + self._look_seconds
        if not look.cancelled():
            look.exception()  # whoever waited has it; nobody need have waited

    def _replace(self, new: _InUse | None) -> None:
        old, self._in_use = self._in_use, new
        if old is not None:
            old.retired = True
            self._close_if_done(old)

    def _close_if_done(self, in_use: _InUse) -> None:
        if in_use.retired and not in_use.calls:
            closing = asyncio.create_task(in_use.model.aclose())
            self._closings.add(closing)
            closing.add_done_callback(self._closings.discard)


class Unusable:
    """A provider that cannot be asked: every call fails with the reason.

    It is away, for settings are put right by people, often a moment later, as when a key follows its provider.
    """

    def __init__(self, problem: str) -> None:
        self._problem = problem
        self._since = datetime.now(UTC)

    @property
    def embedding_limits(self) -> EmbeddingLimits:
        return EmbeddingLimits()

    async def resolve(self, model: str) -> str:  # noqa: ARG002 - the protocol's signature
        self._refuse()

    async def parse(
        self,
        messages: Sequence[Message],  # noqa: ARG002 - the protocol's signature
        *,
        into: type[T],  # noqa: ARG002 - likewise
        model: str,  # noqa: ARG002 - likewise
        parameters: Mapping[str, Any] | None = None,  # noqa: ARG002 - likewise
        offline: OfflineRule | None = None,  # noqa: ARG002 - likewise
        max_tokens: int | None = None,  # noqa: ARG002 - likewise
        share_for: timedelta | None = None,  # noqa: ARG002 - likewise
    ) -> Answer[T]:
        self._refuse()

    async def embedding_model(self) -> str:
        self._refuse()

    async def embed(
        self,
        texts: Sequence[str],  # noqa: ARG002 - likewise
        *,
        model: str,  # noqa: ARG002 - likewise
        purpose: Purpose = "document",  # noqa: ARG002 - likewise
    ) -> Embeddings:
        self._refuse()

    async def aclose(self) -> None:
        """Hold nothing, close nothing."""

    def _refuse(self) -> NoReturn:
        raise Unavailable(self._problem, provider="of the system settings", since=self._since, certain=True)
