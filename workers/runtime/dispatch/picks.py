"""Picks the due jobs of one stage: by the plain statement, or through gates and behind shares where there are any."""

from dataclasses import replace
from functools import partial
from typing import Any

from workers.runtime.database import Raw
from workers.runtime.dispatch.guard import TableGuard
from workers.runtime.dispatch.held import Held
from workers.runtime.handler.registry import Stage
from workers.runtime.store.dispatch import Pass, Picked, Window, pick
from workers.runtime.store.gates import Allowance, GateCursor, GatedPass, pick_through_gates


class Picks:
    """The picks of one leadership; they remember where the next pass over the keys of a stage goes on."""

    def __init__(self, connection: Raw, term: int, guard: TableGuard, held: Held) -> None:
        self._connection = connection
        self._term = term
        self._guard = guard
        self._held = held
        self._cursors: dict[str, Any] = {}
        self._gate_cursors: dict[str, GateCursor] = {}

    async def some(self, stage: Stage, window: Window) -> list[Picked]:
        """Give tickets to due jobs of ``stage`` and return them in order; none if all are kept back."""
        allowance = self._held.allowance(stage)
        if allowance is None:
            return await self._plainly(stage, window)
        if allowance.others <= 0 and not any(allowance.keys.values()):
            return []
        if allowance.keys or allowance.crowd:
            return await self._through_gates(stage, window, allowance)
        jobs = await self._plainly(stage, replace(window, at_most=min(window.at_most, allowance.others)))
        self._held.took(stage, [None] * len(jobs))
        return jobs

    async def _plainly(self, stage: Stage, window: Window) -> list[Picked]:
        cursor = self._cursors.get(stage.name)

        async def pick_some() -> Pass:
            done = await pick(self._connection, stage, window, cursor=cursor, term=self._term)
            if cursor is not None and done.cursor is None and not done.jobs:
                done = await pick(self._connection, stage, window, term=self._term)
            return done

        done = await self._guard.run(stage.model, pick_some, Pass([], cursor))
        self._cursors[stage.name] = done.cursor
        return done.jobs

    async def _through_gates(self, stage: Stage, window: Window, allowance: Allowance) -> list[Picked]:
        cursor = self._gate_cursors.get(stage.name, GateCursor())
        through = partial(pick_through_gates, self._connection, stage, window, allowance, term=self._term)

        async def pick_some() -> GatedPass:
            done = await through(cursor=cursor)
            if cursor != GateCursor() and done.cursor == GateCursor() and not done.jobs:
                done = await through()
            return done

        done = await self._guard.run(stage.model, pick_some, GatedPass([], [], cursor))
        self._gate_cursors[stage.name] = done.cursor
        self._held.took(stage, done.keys)
        return done.jobs
