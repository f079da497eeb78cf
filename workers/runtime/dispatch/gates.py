"""What keeps jobs back before their dispatch: the interface of whoever knows, and what the leader makes of its answers.

The dispatcher asks several times a second, beside its own work: an answer that does not come delays nothing. The last
answer holds for some seconds. After that, the stages that call models are closed, so that nothing is called beyond a
limit; all other stages go on.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

import structlog

from workers.runtime.handler.errors import describe
from workers.runtime.handler.registry import Stage
from workers.runtime.store.gates import UNLIMITED, Allowance, Flight, GateRow

log = structlog.get_logger(__name__)

# So long the last answer holds if no other one comes.
ANSWER_HOLDS_SECONDS = 5.0
# An answer that takes longer is given up.
LOOK_SECONDS = 3.0
UNKNOWN = "limits of model calls cannot be read"


@dataclass(frozen=True, slots=True)
class AskedStage:
    """A stage that calls models, and the values of its gate column that ready jobs have."""

    stage: Stage
    keys: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Gate:
    """At most ``free`` more jobs of ``stage`` may go out until the next look.

    ``key`` is the value of the stage's gate column that this is about. None: all values without a gate of their own. A
    gate that is not reported is open. ``until`` is when it may open (None: unknown); ``reason`` names the limit and its
    state. When a closed gate opens, jobs that were snoozed with a reason that contains one of ``causes`` go on at once.
    ``has_jobs`` is False if nobody has asked about ``key``: then the gate holds for the next jobs, and people are not
    told of it.
    """

    stage: str
    key: str | None
    free: int
    until: datetime | None = None
    reason: str = ""
    causes: Sequence[str] = ()
    has_jobs: bool = True


class Gates(Protocol):
    """Knows which jobs would only be refused now."""

    async def look(self, stages: Sequence[AskedStage]) -> Sequence[Gate]:
        """Return the gates of these stages that are closed, or that let only a limited number of jobs out.

        There may be gates of further values of the gate column, which the next jobs may have.
        """


@dataclass(slots=True)
class Opened:
    """A gate that was closed and is open now: jobs that were snoozed for its causes go on."""

    stage: str
    causes: frozenset[str]


@dataclass(slots=True)
class GateKeeper:
    """What the gates said last, and what has gone out since. Pure, except for the process's clock."""

    stages: Collection[str]
    _began_at: float = field(default_factory=time.monotonic)
    _answered_at: float = float("-inf")
    _gates: dict[str, dict[str | None, Gate]] = field(default_factory=dict)
    _gone: Counter[tuple[str, str | None]] = field(default_factory=Counter)

    def answer(self, gates: Sequence[Gate], flight: Mapping[str, Sequence[Flight]], *, asked_at: float) -> list[Opened]:
        """Take an answer; return which closed gates have opened by it.

        ``flight`` are the dispatched jobs by stage. Those that nobody has claimed yet will use what is free.
        """
        before, self._gates = self._gates, {}
        for gate in gates:
            self._gates.setdefault(gate.stage, {})[gate.key] = gate
        self._answered_at = asked_at
        self._gone.clear()
        for stage, groups in flight.items():
            for group in groups:
                self._gone[stage, self._door(stage, group.key)] += group.unclaimed
        return [
            Opened(stage, frozenset(gate.causes))
            for stage, own in before.items()
            for key, gate in own.items()
            if gate.free <= 0 and gate.causes and self._gate(stage, key).free > 0
        ]

    def is_stale(self) -> bool:
        """Tell whether the last answer is too old to go by."""
        return time.monotonic() - self._answered_at > ANSWER_HOLDS_SECONDS

    def allowance(self, stage: str) -> Allowance | None:
        """Return how many more jobs of a stage may go out; None for any number."""
        if self.is_stale():
            return Allowance(others=0)
        if not (own := self._gates.get(stage)):
            return None
        left = {key: max(gate.free - self._gone[stage, key], 0) for key, gate in own.items()}
        others = left.pop(None, UNLIMITED)
        return Allowance({key: free for key, free in left.items() if key is not None}, others)

    def took(self, stage: str, keys: Sequence[str | None]) -> None:
        """Count jobs that have gone out, by the values of their gate column."""
        for key in keys:
            self._gone[stage, self._door(stage, key)] += 1

    def told(self) -> list[GateRow]:
        """Return what people are told of the gates."""
        if self.is_stale() and time.monotonic() - self._began_at < ANSWER_HOLDS_SECONDS:
            return []  # the first answer is on its way
        if self.is_stale():
            return [GateRow(name, None, 0, None, UNKNOWN) for name in sorted(self.stages)]
        return [
            GateRow(gate.stage, gate.key, gate.free, gate.until, gate.reason)
            for own in self._gates.values()
            for gate in own.values()
            if gate.has_jobs
        ]

    def _door(self, stage: str, key: str | None) -> str | None:
        """Return the key of the gate through which a job goes: its own, or that of all others."""
        return key if key in self._gates.get(stage, {}) else None

    def _gate(self, stage: str, key: str | None) -> Gate:
        own = self._gates.get(stage, {})
        return own.get(key) or own.get(None) or Gate(stage, key, UNLIMITED)


class GateLooks:
    """Asks the gates beside the leader's work, one look at a time."""

    def __init__(self, gates: Gates) -> None:
        self._gates = gates
        self._task: asyncio.Task[Sequence[Gate]] | None = None
        self._asked_at = 0.0
        self._failing = False

    def ask(self, stages: Sequence[AskedStage]) -> None:
        """Begin a look, unless one is under way."""
        if self._task is None:
            self._asked_at = time.monotonic()
            self._task = asyncio.create_task(self._look(stages), name="gates")

    def take(self) -> tuple[Sequence[Gate], float] | None:
        """Return what a look has found and when it was begun; None while there is nothing new."""
        if self._task is None or not self._task.done():
            return None
        task, self._task = self._task, None
        if task.cancelled():
            return None
        if error := task.exception():
            if not self._failing:
                log.warning("gates_not_read", error=describe(error), closed_after_seconds=ANSWER_HOLDS_SECONDS)
            self._failing = True
            return None
        if self._failing:
            log.info("gates_read_again")
        self._failing = False
        return task.result(), self._asked_at

    async def _look(self, stages: Sequence[AskedStage]) -> Sequence[Gate]:
        async with asyncio.timeout(LOOK_SECONDS):
            return await self._gates.look(stages)

    async def aclose(self) -> None:
        """Give up the look that is under way."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await self._task
            self._task = None
