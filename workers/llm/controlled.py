"""The language model that all handlers are given: routes, kept answers, fallback; every call within its limits."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import structlog
from pydantic import BaseModel

from workers.llm import offline as rules
from workers.llm.answering import Answering, answering
from workers.llm.calls import CachedCalls, Call, NotAdmittedError, Usage, current_caller
from workers.llm.fallback import Tried, max_attempts, may_go_on, none_answered, path_record
from workers.llm.kept import Kept, KeptAnswer, Question, being_asked, question_of, restore
from workers.llm.kept.identical_texts import embed_once
from workers.llm.pauses import Gate
from workers.llm.ports import Attempts, RoutePosition, current_position
from workers.llm.routing.clients import Clients, Make
from workers.llm.routing.following import LOOK_SECONDS, Following, Look, Seen, released
from workers.llm.routing.routing import Path, Provider, Routing, Step, UnknownRouteError
from workers.runtime.handler.errors import BrokenVectors, Permanent, Retryable, Unavailable, UnfitVectors, describe
from workers.runtime.handler.ports import (
    Answer,
    EmbeddingLimits,
    Embeddings,
    LanguageModel,
    Message,
    OfflineRule,
    Purpose,
    one_model,
)

log = structlog.get_logger(__name__)

T = TypeVar("T", bound=BaseModel)
R = TypeVar("R")

# How often the jobs of a provider that operators paused look by themselves; to resume it wakes them.
PAUSED_DELAY = timedelta(minutes=1)

# Has the jobs of a provider go on, which need not wait any longer.
Wake = Callable[[Provider], Awaitable[object]]


class ControlledModel:
    """Asks whom the routing of the moment names, a few seconds after it names another at most.

    A call takes its route's steps in their order, each at most once: the next one only if a provider is away, without
    quota, or limited for longer than a short wait. Who answered instead of whom is in the answer's ``path``. ``make``
    builds the client of a provider, in a thread. Calls under way end with the client that they began with. ``wake`` is
    called for each provider that is back; ``free`` frees what ``look`` holds. ``cached`` has the
    vectors that were there already, and not made.
    """

    def __init__(
        self,
        *,
        look: Look,
        make: Make,
        gate: Gate,
        embedding_limits: EmbeddingLimits,
        kept: Kept | None = None,
        cached: CachedCalls | None = None,
        wake: Wake | None = None,
        free: Callable[[], Awaitable[None]] | None = None,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._following = Following(look, self._follow_look, look_seconds=look_seconds)
        self._clients = Clients(make)
        self._gate = gate
        self._limits = embedding_limits
        self._kept = kept
        self._cached = cached
        self._wake = wake
        self._free = free
        self._wakings: set[asyncio.Task[None]] = set()
        gate.on_back = self._is_back

    # ── the protocol ─────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def last_routing(self) -> Routing | None:
        """The providers and routes that were read last; None before the first look."""
        return self._following.last

    @property
    def embedding_limits(self) -> EmbeddingLimits:
        """Those of whoever embeds for the current run."""
        routing, caller = self._following.last, current_caller()
        if routing is None:
            return self._limits
        route = routing.route_of("embeddings", stage=caller.stage, project_id=caller.project_id)
        is_offline = bool(route.steps) and routing.provider_of(route.steps[0]).is_offline
        return rules.LIMITS if is_offline else self._limits

    async def resolve(self, model: str) -> str:
        """Return the identity of all who may answer for ``model``, once one of them is there to answer."""
        routing, path = await self._chat_path(model)

        async def ask(client: LanguageModel, step: Step) -> str:
            return await client.resolve(str(step.model))

        found, _, _ = await self._along(routing, path, ask)
        return found if len(path.steps) == 1 else _identity(routing, path)

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
        """Return a kept answer to exactly this question, else ask along the path of ``model``."""
        routing, path = await self._chat_path(model)

        async def ask(client: LanguageModel, step: Step) -> Answer[T]:
            return await client.parse(
                messages,
                into=into,
                model=str(step.model),
                parameters=parameters,
                offline=offline,
                max_tokens=max_tokens or step.max_tokens,
            )

        is_free = routing.provider_of(path.steps[0]).is_offline
        if self._kept is None or (is_free and share_for is None):  # a rule answers again faster than it is looked up
            return await self._asked(routing, path, ask)
        first = path.steps[0]
        question = replace(
            question_of(_identity(routing, path), messages, into=into, parameters=parameters, share_for=share_for),
            route=path.route.name,
            provider=first.provider,
            model=str(first.model),
        )
        found = await self._kept.find(question)
        if found is not None and (answer := restore(found, question, into)) is not None:
            return answer
        return await self._asked_and_kept(self._kept, question, partial(self._asked, routing, path, ask))

    async def embedding_model(self) -> str:
        """Return whose vectors the current run gets; their texts' prefix is part of it."""
        routing, path = await self._embedding_path()
        return await self._vectors_of(routing, path)

    async def embed(self, texts: Sequence[str], *, model: str, purpose: Purpose = "document") -> Embeddings:
        """Return vectors of ``model``; raise Retryable where another has been chosen since: ask for its name again."""
        if not texts or not all(map(str.strip, texts)):
            raise Permanent("an empty text has no embedding")
        routing, path = await self._embedding_path()
        if (current := await self._vectors_of(routing, path)) != model:
            raise Retryable(f"embedding model is {current!r} now, no longer {model!r}")

        async def ask(client: LanguageModel, step: Step) -> Embeddings:
            prefix = step.document_prefix if purpose == "document" else step.query_prefix
            asked = await client.embedding_model() if step.model is None else step.model
            prefixed = [prefix + text for text in texts] if prefix else texts
            return await embed_once(prefixed, lambda once: client.embed(once, model=asked))

        try:
            found, _, _ = await self._along(routing, path, ask)
        except (UnfitVectors, BrokenVectors) as error:
            error.embeddings = replace(error.embeddings, model=model)
            raise
        return replace(found, model=model)

    async def record_reused(self, tokens: int, *, model: str) -> None:
        """Record in the ledger that texts of so many tokens were not embedded, as vectors of ``model`` were there."""
        routing, path = await self._embedding_path()
        step = path.steps[0]
        if self._cached is None or routing.provider_of(step).is_offline:
            return
        call = Call(
            caller=current_caller(),
            kind="embeddings",
            provider=step.provider,
            model=step.model or model,
            route=path.route.name,
            input_tokens=0,
        )
        usage = Usage(input_tokens=tokens, output_tokens=None, served_model=step.model or model, seconds=0.0)
        try:
            await self._cached.record_cached(call, usage)
        except Exception as error:  # noqa: BLE001 - the vectors are saved, and the row costs nothing
            log.warning("cached_call_not_recorded", error=describe(error))

    async def aclose(self) -> None:
        """Close every client, and what the routing is read with."""
        await self._following.aclose()
        await self._clients.aclose()
        await asyncio.gather(*self._wakings, return_exceptions=True)
        if self._free is not None:
            await self._free()

    async def routing(self) -> Routing:
        """Return the providers and routes of now."""
        return await self._following.routing()

    async def report(self) -> dict[str, Any]:
        """Return who answers now, without any secret, as the worker's row has it."""
        return asdict(await self.answering())

    async def answering(self) -> Answering:
        """Return who answers now."""
        return answering(await self._following.routing())

    # ── a path ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _chat_path(self, model: str) -> tuple[Routing, Path]:
        """Return the path of a question of the current run; raise where there is none."""
        routing, caller = await self._following.routing(), current_caller()
        find = partial(Routing.path, model=model, stage=caller.stage, project_id=caller.project_id)
        try:
            path = find(routing)
        except UnknownRouteError:
            routing = await self._following.look_again()  # it may have been added a moment ago
            try:
                path = find(routing)
            except UnknownRouteError as error:
                raise Permanent(str(error)) from None
        _require_usable(routing, path)
        if one_model.get() and len(path.steps) > 1:
            raise Permanent(
                f"stage {caller.stage} compares models, and {len(path.steps)} may answer by route {path.route.name!r}: "
                f"name one model, or a route of one step"
            )
        return routing, path

    async def _embedding_path(self) -> tuple[Routing, Path]:
        """Return the path of texts that the current run embeds; raise where there is none."""
        routing, caller = await self._following.routing(), current_caller()
        path = routing.embedding_path(stage=caller.stage, project_id=caller.project_id)
        _require_usable(routing, path)
        return routing, path

    async def _along(
        self, routing: Routing, path: Path, ask: Callable[[LanguageModel, Step], Awaitable[R]]
    ) -> tuple[R, Step, list[Tried]]:
        """Return what the first step says that can answer, with that step and those before it."""
        tried: list[Tried] = []
        attempts, most = Attempts(), max_attempts(len(path.steps))
        for place, step in enumerate(path.steps):
            is_last = place == len(path.steps) - 1
            if tried and (asking := being_asked.get()) is not None:
                asking.path = path_record(tried, step)  # kept with the answer, in the statement of its call
            token = current_position.set(
                RoutePosition(
                    route=path.route.name,
                    step=place,
                    is_last=is_last,
                    context_tokens=step.context_tokens,
                    attempts=attempts,
                )
            )
            try:
                async with self._client(routing.provider_of(step)) as client:
                    return await ask(client, step), step, tried
            except Exception as error:
                if not may_go_on(error):
                    raise
                tried.append(Tried(step, error))  # type: ignore[arg-type]  # may_go_on has checked it
            finally:
                current_position.reset(token)
            if attempts.sent >= most:
                break
        raise none_answered(path.route.name, tried) from tried[-1].error

    async def _asked(
        self, routing: Routing, path: Path, ask: Callable[[LanguageModel, Step], Awaitable[Answer[T]]]
    ) -> Answer[T]:
        answer, step, tried = await self._along(routing, path, ask)
        if not tried:
            return answer
        record = path_record(tried, step)
        log.info("answered_by_fallback", route=path.route.name, provider=step.provider, model=step.model, path=record)
        return replace(answer, path=record)

    async def _asked_and_kept(
        self, kept: Kept, question: Question, ask: Callable[[], Awaitable[Answer[T]]]
    ) -> Answer[T]:
        try:
            answer = await ask()
        except BaseException:
            await kept.drop(question)
            raise
        await kept.keep(question, KeptAnswer.of(answer, path=answer.path))
        return answer

    @asynccontextmanager
    async def _client(self, provider: Provider) -> AsyncIterator[LanguageModel]:
        """Yield the client of a provider that may be asked."""
        if provider.problem is not None:
            raise Unavailable(f"provider {provider.name} cannot be used: {provider.problem}", certain=True)
        if provider.paused_at is not None:  # perhaps it is no longer: the dispatcher may have seen it earlier
            provider = (await self._following.look_again()).providers.get(provider.name, provider)
        if provider.paused_at is not None:
            raise NotAdmittedError(
                f"provider {provider.name} is paused since {provider.paused_at:%Y-%m-%d %H:%M} UTC "
                f"({provider.paused_reason}); `gristmill llm resume {provider.name}`",
                delay=PAUSED_DELAY,
                limit=f"pause of provider {provider.name}",
            )
        async with self._clients.of(provider) as client:
            yield client

    async def _vectors_of(self, routing: Routing, path: Path) -> str:
        step = path.steps[0]
        if step.model is not None:
            return step.vectors
        async with self._client(routing.provider_of(step)) as client:
            return await client.embedding_model()

    # ── what changes meanwhile ───────────────────────────────────────────────────────────────────────────────────────

    async def _follow_look(self, seen: Seen, before: Routing | None, began: float) -> None:
        """Follow the pauses and the providers of a look."""
        if seen.pauses is not None:
            await self._gate.follow(seen.pauses, began=began)
        self._clients.keep_only(seen.routing.in_use())
        for provider in released(before, seen.routing):
            self._wake_jobs_of(provider)

    def _is_back(self, name: str) -> None:
        """Wake the jobs of the providers whose server, or key, has just answered after a pause."""
        routing = self._following.last
        for provider in routing.providers.values() if routing else ():
            if name in {provider.server, provider.key_name} or name.startswith(f"{provider.server}|"):
                self._wake_jobs_of(provider)

    def _wake_jobs_of(self, provider: Provider) -> None:
        if self._wake is not None:
            waking = asyncio.create_task(self._waking(self._wake, provider))
            self._wakings.add(waking)
            waking.add_done_callback(self._wakings.discard)

    async def _waking(self, wake: Wake, provider: Provider) -> None:
        try:
            await wake(provider)
        except Exception as error:  # noqa: BLE001 - they wake by themselves, later
            log.warning("jobs_not_woken", provider=provider.name, error=describe(error))


def _require_usable(routing: Routing, path: Path) -> None:
    if (problem := routing.problem_of(path.route)) is not None:
        raise Unavailable(problem, certain=True)


def _identity(routing: Routing, path: Path) -> str:
    """Return who may answer on a path: another path gives another answer."""
    return " or ".join(f"{routing.provider_of(one).server or one.provider}|{one.model}" for one in path.steps)
