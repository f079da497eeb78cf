"""What keeps jobs back before their dispatch: limits, cooldowns, budgets and outages of the providers they would call.

It only reads. A job that goes out nevertheless waits for its turn in its run: admission decides, not this.
"""

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Protocol
from uuid import UUID

from workers.llm.admission.capacity import capacity_of
from workers.llm.calls import Kind, Lane, NotAdmittedError
from workers.llm.names import TABLE_DEFAULT
from workers.llm.pause_store import MAX_PAUSES, STALE
from workers.llm.routing.following import Following, Seen
from workers.llm.routing.keyless import read_keyless
from workers.runtime.database import Database
from workers.runtime.dispatch.gates import AskedStage, Gate

# What a call of an average job uses, for limits of tokens. A larger one waits in its run.
AVERAGE_INPUT, AVERAGE_OUTPUT = 1_000, 300
# A path with room for so many calls needs no gate: no look is so late.
NO_GATE_FROM = 5_000
# So many names of models and routes are looked at before any job has them: else their first jobs would go out.
MAX_KNOWN_NAMES = 64
# How often those are looked at: there may be many, and most have no jobs.
KNOWN_NAMES_SECONDS = 1.0
# How often providers and routes are read. A provider that is resumed is asked again no later than this.
ROUTING_SECONDS = 0.5


class ProviderLike(Protocol):
    """A provider of the routing, as far as a gate needs it."""

    @property
    def name(self) -> str: ...
    @property
    def server(self) -> str | None: ...
    @property
    def key_name(self) -> str: ...
    @property
    def key_changed_at(self) -> datetime | None: ...
    @property
    def is_offline(self) -> bool: ...
    @property
    def paused_at(self) -> datetime | None: ...
    @property
    def paused_reason(self) -> str | None: ...


class StepLike(Protocol):
    """One step of a route: ``model`` is None if the provider's client chooses it."""

    @property
    def provider(self) -> str: ...
    @property
    def model(self) -> str | None: ...


class PathLike(Protocol):
    """The steps that one call may take."""

    @property
    def steps(self) -> Sequence[Any]: ...


class RoutingLike(Protocol):
    """Which path a call takes; raises LookupError for a route that does not exist."""

    def path(self, model: str, *, stage: str | None, project_id: UUID | None) -> PathLike: ...

    def embedding_path(self, *, stage: str | None, project_id: UUID | None) -> PathLike: ...

    def provider_of(self, step: Any, /) -> ProviderLike: ...

    def bound_projects(self, serves: Kind, *, stage: str) -> Sequence[UUID]: ...

    def known_names(self) -> Sequence[str]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CallPath:
    """Calls of one provider, model and stage; the names are those of admission's capacity."""

    provider: str
    model: str
    stage: str | None = None
    owner_id: UUID | None = None
    project_id: UUID | None = None
    profile_id: UUID | None = None
    lane: Lane = "normal"
    input: int = AVERAGE_INPUT
    output: int = AVERAGE_OUTPUT
    usd: Decimal | None = None


class CapacityLike(Protocol):
    """How many calls could be admitted now; None for any number. ``refusal`` names the limit that is closest."""

    @property
    def calls(self) -> int | None: ...
    @property
    def refusal(self) -> NotAdmittedError | None: ...


@dataclass(frozen=True, slots=True)
class Pause:
    """An outage that all processes know: until when nobody asks, and whether one call asks just now."""

    name: str
    until: datetime
    reason: str
    is_over: bool
    is_probed: bool
    since: datetime | None = None


_PAUSES = """
    SELECT provider, CASE WHEN probing_until > now() THEN probing_until ELSE until END, reason,
           until <= now(), coalesce(probing_until > now(), false), since
      FROM runtime.provider_pauses WHERE until > now() - make_interval(secs => %(stale)s)
     ORDER BY until DESC LIMIT %(most)s"""


async def read_pauses(database: Database) -> dict[str, Pause]:
    """Return the outages of servers, of their models and of keys, by name."""
    async with database.kernel() as conn:
        cursor = await conn.execute(_PAUSES, {"stale": STALE.total_seconds(), "most": MAX_PAUSES})
        return {row[0]: Pause(*row) for row in await cursor.fetchall()}


@dataclass(frozen=True, slots=True)
class _Way:
    """What one step of a path has free: None for any number. ``shares`` is the same for all under one limit."""

    free: int | None
    until: datetime | None = None
    reason: str = ""
    causes: tuple[str, ...] = ()
    shares: str | None = None


class ModelGates:
    """Asks routing, admission and the shared outages what the jobs of each stage and model could do now."""

    def __init__(
        self,
        *,
        routing: Callable[[], Awaitable[RoutingLike]],
        capacity: Callable[[Sequence[Any]], Awaitable[Sequence[CapacityLike]]],
        pauses: Callable[[], Awaitable[Mapping[str, Pause]]],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """``capacity`` gets paths with the attributes of :class:`CallPath`, and answers in their order."""
        self._routing = routing
        self._capacity = capacity
        self._pauses = pauses
        self._clock = clock
        self._further: Sequence[Gate] = []
        self._further_due = 0.0

    async def look(self, stages: Sequence[AskedStage]) -> Sequence[Gate]:
        """Return the gates of these stages that are closed, or that let only a limited number of jobs out."""
        routing = await self._routing()
        if (now := time.monotonic()) >= self._further_due:
            gates = await self._look(routing, stages, routing.known_names()[:MAX_KNOWN_NAMES])
            self._further = [gate for gate in gates if not gate.has_jobs]
            self._further_due = now + KNOWN_NAMES_SECONDS
            return gates
        gates = await self._look(routing, stages, ())
        has_jobs = {(one.stage.name, key) for one in stages for key in _keys(one)}
        return [*gates, *(gate for gate in self._further if (gate.stage, gate.key) not in has_jobs)]

    async def _look(self, routing: RoutingLike, stages: Sequence[AskedStage], known: Sequence[str]) -> list[Gate]:
        asked: list[tuple[str, str | None, Sequence[Any]]] = []
        for one in stages:
            for key in _keys(one, known):
                steps = _steps(routing, one, key)
                if steps and not any(routing.provider_of(step).is_offline for step in steps):
                    asked.append((one.stage.name, key, steps))
        if not asked:
            return []
        paths = {
            (stage, step.provider, step.model or ""): CallPath(
                provider=step.provider, model=step.model or "", stage=stage
            )
            for stage, _, steps in asked
            for step in steps
        }
        found = dict(zip(paths, await self._capacity(list(paths.values())), strict=True))
        pauses = await self._pauses()
        ways = [
            (
                stage,
                key,
                [
                    self._way(routing.provider_of(step), step, found[stage, step.provider, step.model or ""], pauses)
                    for step in steps
                ],
            )
            for stage, key, steps in asked
        ]
        has_jobs = {(one.stage.name, key) for one in stages for key in _keys(one)}
        sharing = Counter(
            shares
            for stage, key, own in ways
            if (stage, key) in has_jobs
            for shares in {way.shares for way in own if way.shares}
        )
        gates = [
            _gate(stage, key, [_shared(way, sharing) for way in own], has_jobs=(stage, key) in has_jobs)
            for stage, key, own in ways
        ]
        return [gate for gate in gates if gate is not None]

    def _way(self, provider: ProviderLike, step: StepLike, capacity: CapacityLike, pauses: Mapping[str, Pause]) -> _Way:
        if provider.paused_at is not None:
            reason = f"provider {provider.name} is paused by operators"
            told = f"{reason} ({provider.paused_reason})" if provider.paused_reason else reason
            return _Way(0, None, told, (f"provider {provider.name}",))
        probe = None
        server = (pauses.get(name) for name in (provider.server, f"{provider.server}|{step.model}") if name)
        for pause in (*server, _pause_of_key(provider, pauses)):
            if pause is None:
                continue
            name = pause.name
            causes = (f"provider {name.partition('|')[0]}",)
            reason = f"provider {name.replace('|', ', model ')} is away ({pause.reason})"
            if not pause.is_over or pause.is_probed:
                return _Way(0, pause.until, reason, causes)
            probe = _Way(1, None, f"{reason}; one job asks it again", causes, shares=name)
        limited = self._limited(capacity)
        return probe if probe is not None and limited.free != 0 else limited

    def _limited(self, capacity: CapacityLike) -> _Way:
        refusal = capacity.refusal
        if capacity.calls is None or refusal is None or capacity.calls >= NO_GATE_FROM:
            return _Way(None)
        if refusal.batch_may:  # the run moves its job to the batch lane
            return _Way(None)
        key = getattr(refusal, "key", refusal.limit)
        if capacity.calls > 0:
            return _Way(capacity.calls, None, str(refusal), (refusal.limit,), shares=key)
        until = self._clock() + max(refusal.delay, timedelta())
        return _Way(0, until, str(refusal), (refusal.limit,), shares=key)


def _keys(asked: AskedStage, known: Sequence[str] = ()) -> Sequence[str | None]:
    """Return the values of the gate column to look at; a stage without one has one gate."""
    if asked.stage.gate is None:
        return [None]
    return list(dict.fromkeys([*asked.keys, *known]))


def _steps(routing: RoutingLike, asked: AskedStage, key: str | None) -> Sequence[Any]:
    """Return the steps of the path; none for an unknown route: its jobs go out, and their runs fail.

    If projects have routes of their own, all of their steps count: a job is kept back only if no step of any of them
    has room, as a gate does not know the project of a job.
    """
    stage = asked.stage.name
    kind: Kind = asked.stage.calls or "chat"
    of_projects = routing.bound_projects(kind, stage=stage) if hasattr(asked.stage.model, "project_id") else ()
    steps: dict[Any, None] = {}
    for project in (None, *of_projects):
        try:
            if kind == "embeddings":
                path = routing.embedding_path(stage=stage, project_id=project)
            else:
                path = routing.path(key or TABLE_DEFAULT, stage=stage, project_id=project)
        except LookupError:
            return ()
        steps |= dict.fromkeys(path.steps)
    return list(steps)


def _pause_of_key(provider: ProviderLike, pauses: Mapping[str, Pause]) -> Pause | None:
    """Return the outage of the provider's key.

    Where the key is not known: the latest of its keys that did not begin before the last change of the key.
    """
    if provider.key_changed_at is None:
        return pauses.get(provider.key_name)
    own = (
        pause
        for name, pause in pauses.items()
        if name.startswith("key ") and name.endswith(f" of {provider.name}")
        and pause.since is not None and pause.since >= provider.key_changed_at
    )  # fmt: skip
    return max(own, key=lambda pause: pause.until, default=None)


def _shared(way: _Way, sharing: Mapping[str, int]) -> _Way:
    """Share out what several gates have free under one limit, at least one job each."""
    if not way.free or way.shares is None:
        return way
    return replace(way, free=max(way.free // max(sharing[way.shares], 1), 1))


def _gate(stage: str, key: str | None, ways: Sequence[_Way], *, has_jobs: bool) -> Gate | None:
    """Return the gate of a path; None if any of its steps has room for any number of calls.

    A path is closed while all of its steps are. It opens with the first of them.
    """
    if any(way.free is None for way in ways):
        return None
    free = sum(way.free or 0 for way in ways)
    first = ways[0]
    causes = tuple(dict.fromkeys(cause for way in ways for cause in way.causes))
    if free:
        told = next(way for way in ways if way.free)
        return Gate(stage, key, free, None, told.reason, causes, has_jobs)
    ends = [way.until for way in ways if way.until is not None]
    return Gate(stage, key, 0, min(ends) if ends else None, first.reason, causes, has_jobs)


def gates_of(database: Database) -> ModelGates:
    """Return the gates of the calls of all workers. ``database`` may be that of a login that reads no key."""

    async def look() -> Seen:
        async with database.kernel() as conn:
            return Seen(await read_keyless(conn))

    async def nothing(*_: object) -> None:
        """Nobody else follows."""

    async def capacity(paths: Sequence[Any]) -> Sequence[CapacityLike]:
        async with database.kernel() as conn:
            return await capacity_of(conn, paths)

    async def pauses() -> Mapping[str, Pause]:
        return await read_pauses(database)

    following = Following(look, nothing, look_seconds=ROUTING_SECONDS)
    return ModelGates(routing=following.routing, capacity=capacity, pauses=pauses)
