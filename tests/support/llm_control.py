"""Admission in memory, for tests of who asks whom: it refuses what a test says, and remembers every call."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from workers.llm.calls import Call, NotAdmittedError, Usage
from workers.llm.ports import Control


@dataclass
class Ledger:
    """Admission, turns and ledger of one process. ``refusals`` are raised, in order, instead of admitting a call.

    ``ended`` has what became of each call: ``settled``, ``failed``, ``charged`` or ``released``.
    """

    refusals: list[NotAdmittedError] = field(default_factory=list)
    reserved: list[Call] = field(default_factory=list)
    usages: dict[object, Usage] = field(default_factory=dict)
    ended: list[tuple[Call, str]] = field(default_factory=list)
    cached: list[tuple[Call, Usage]] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    cooldowns: list[tuple[str, str, timedelta]] = field(default_factory=list)
    until: dict[tuple[str, str], float] = field(default_factory=dict)
    broken: Exception | None = None

    @property
    def control(self) -> Control:
        return Control(admission=self, turns=self)

    @property
    def states(self) -> list[str]:
        return [state for _, state in self.ended]

    async def admitted(self, call: Call, *, until: float | None = None) -> None:
        while True:
            try:
                return await self.reserve(call)
            except NotAdmittedError as error:
                ends = time.monotonic() + error.delay.total_seconds()
                if until is not None and ends > until:
                    raise
                await asyncio.sleep(error.delay.total_seconds())

    async def reserve(self, call: Call) -> None:
        if self.broken is not None:
            raise self.broken
        if self.refusals:
            raise self.refusals.pop(0)
        left = self.until.get((call.provider, call.model), 0.0) - time.monotonic()
        if left > 0:
            raise NotAdmittedError("it cools down", delay=timedelta(seconds=left), limit=f"cooldown of {call.provider}")
        self.reserved.append(call)

    async def settle(self, call: Call, usage: Usage, *, keep: object = None) -> None:
        self.usages[call.id] = usage
        self._end(call, "settled")

    async def fail(self, call: Call, reason: str, *, charged: bool) -> None:
        self.reasons.append(reason)
        self._end(call, "charged" if charged else "failed")

    async def release(self, call: Call) -> None:
        self._end(call, "released")

    async def record_cached(self, call: Call, usage: Usage) -> None:
        self.cached.append((call, usage))

    async def cool_down(self, provider: str, model: str, *, delay: timedelta, reason: str) -> None:
        self.reasons.append(reason)
        self.cooldowns.append((provider, model, delay))
        self.until[provider, model] = time.monotonic() + delay.total_seconds()

    def _end(self, call: Call, state: str) -> None:
        assert call in self.reserved, "it was never reserved"
        assert call.id not in {one.id for one, _ in self.ended}, "it has ended already"
        self.ended.append((call, state))

    def sums(self) -> Mapping[str, int]:
        """Return the tokens that were settled."""
        return {
            "input": sum(one.input_tokens or 0 for one in self.usages.values()),
            "output": sum(one.output_tokens or 0 for one in self.usages.values()),
        }
