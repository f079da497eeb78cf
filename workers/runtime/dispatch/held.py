"""Which jobs the leader keeps back: at gates, and behind the share of an owner or a key that holds too many slots."""

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

import structlog

from workers.runtime.database import Raw
from workers.runtime.dispatch.crowds import crowd_in_flight, is_slow
from workers.runtime.dispatch.gates import AskedStage, GateKeeper, GateLooks, Opened
from workers.runtime.dispatch.guard import TableGuard, await_answer
from workers.runtime.handler.registry import Registry, Stage
from workers.runtime.shares import NOBODY, Crowd
from workers.runtime.store.gates import Allowance, Flight, GateRow, count_flight, ready_keys, write_gates
from workers.runtime.store.processes import StageCapacity
from workers.runtime.store.waits import Woken, wake_snoozed

log = structlog.get_logger(__name__)

# So many values of the gate column of a stage are asked about; all others share the gate of the whole stage.
MAX_KEYS = 64
# A value that no ready job has any more is asked about for so long: the next job with it may come at any time.
KEY_REMEMBERED_SECONDS = 120.0
TELL_SECONDS = 1.0
# The jobs of one slice that go on when a gate has opened.
WAKE_SLICE = 5_000
WAKE_AGAIN_SECONDS = 2.0


class Held:
    """What one leadership keeps back. Without ``looks`` no stage has a gate."""

    def __init__(
        self, connection: Raw, term: int, guard: TableGuard, registry: Registry, looks: GateLooks | None
    ) -> None:
        self._connection = connection
        self._term = term
        self._guard = guard
        self._looks = looks
        self._gated = {stage.name: stage for stage in registry.values() if stage.calls} if looks else {}
        self._keeper = GateKeeper(list(self._gated))
        self._crowds: dict[str, Crowd] = {}
        self._told: Sequence[object] | None = None
        self._tell_at = 0.0
        self._keys_seen: dict[str, dict[str, float]] = {}
        self._opened: dict[str, set[str]] = {}
        self._waking: tuple[Opened, tuple[datetime, UUID] | None] | None = None
        self._wake_at: dict[str, float] = {}

    async def look(self) -> None:
        """Take the answer of the last look, and begin the next one."""
        if self._looks is None:
            return
        await self.take()
        asked = [AskedStage(stage, await self._keys(stage)) for stage in self._gated.values()]
        self._looks.ask(asked)

    async def take(self) -> None:
        """Take the answer of a look, if there is one."""
        if self._looks is None or (found := self._looks.take()) is None:
            return
        gates, asked_at = found
        names = {gate.stage for gate in gates}
        flight = {name: await self._flight(stage) for name, stage in self._gated.items() if name in names}
        for opened in self._keeper.answer(gates, flight, asked_at=asked_at):
            self._opened.setdefault(opened.stage, set()).update(opened.causes)

    async def look_at_shares(self, stage: Stage, capacity: StageCapacity | None, *, per_second: float) -> None:
        """Find out who holds more than its share of the slots of ``stage``, if they come free slowly."""
        crowd = NOBODY
        if capacity and not capacity.paused and is_slow(capacity, per_second=per_second):
            crowd = crowd_in_flight(await self._flight(stage), capacity)
        self._crowds[stage.name] = crowd

    def allowance(self, stage: Stage) -> Allowance | None:
        """Return how many more jobs of ``stage`` may go out and who goes last; None if there is nothing to heed."""
        found = self._keeper.allowance(stage.name) if stage.name in self._gated else None
        if found is not None and stage.gate is None and found.keys:
            found = replace(found, keys={})
        if not (crowd := self._crowds.get(stage.name)):
            return found
        return replace(found or Allowance(), crowd=crowd)

    def took(self, stage: Stage, keys: Sequence[str | None]) -> None:
        """Count jobs that have gone out, by the values of their gate column."""
        if stage.name in self._gated:
            self._keeper.took(stage.name, keys)

    async def tell(self) -> None:
        """Write what is kept back where people read it, if that has changed, at most once a second."""
        now = time.monotonic()
        if now < self._tell_at:
            return
        rows = self._keeper.told()
        seen = [_as_told(row) for row in rows]
        if seen == self._told:
            return
        await await_answer(write_gates(self._connection, rows, term=self._term))
        self._told, self._tell_at = seen, now + TELL_SECONDS

    async def wake(self) -> int:
        """Let one slice of the jobs go on that were snoozed for what keeps them back no more; return how many."""
        self._waking = self._waking or self._next_to_wake()
        if self._waking is None:
            return 0
        opened, after = self._waking
        stage = self._gated[opened.stage]
        wake = partial(
            wake_snoozed,
            self._connection,
            stage.model,
            stages=[stage.name],
            causes=sorted(opened.causes),
            after=after,
            most=WAKE_SLICE,
            term=self._term,
        )
        woken = await self._guard.run(stage.model, wake, Woken(0, None))
        self._waking = (opened, woken.after) if woken.after is not None else None
        if woken.jobs:
            log.info("snoozed_jobs_go_on", stage=stage.name, jobs=woken.jobs)
        return woken.jobs

    def _next_to_wake(self) -> tuple[Opened, None] | None:
        """Return a stage with a gate that has opened. A gate that opens again and again is not heeded each time."""
        now = time.monotonic()
        for name in self._opened:
            if now >= self._wake_at.get(name, 0.0):
                self._wake_at[name] = now + WAKE_AGAIN_SECONDS
                return Opened(name, frozenset(self._opened.pop(name))), None
        return None

    async def _keys(self, stage: Stage) -> list[str]:
        """Return the values of the gate column that ready jobs have, or had a moment ago."""
        now, seen = time.monotonic(), self._keys_seen.setdefault(stage.name, {})
        ready = partial(ready_keys, self._connection, stage, most=MAX_KEYS)
        none: list[str] = []
        for key in await self._guard.run(stage.model, ready, none):
            seen.pop(key, None)
            seen[key] = now  # the newest stand last
        while seen and (len(seen) > MAX_KEYS or now - next(iter(seen.values())) > KEY_REMEMBERED_SECONDS):
            del seen[next(iter(seen))]
        return list(seen)

    async def _flight(self, stage: Stage) -> list[Flight]:
        return await self._guard.run(stage.model, partial(count_flight, self._connection, stage), [])


def _as_told(row: GateRow) -> object:
    """Return what must differ for a gate to be told again."""
    until = row.until and row.until.replace(microsecond=0) - timedelta(seconds=row.until.second % 2)
    return (row.stage, row.key, row.free == 0, until, row.reason)
