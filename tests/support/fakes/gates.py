"""A fake of what knows the limits of model calls: the test opens and closes gates."""

import asyncio
from collections.abc import Sequence

from workers.runtime.dispatch.gates import AskedStage, Gate


class FakeGates:
    """A :class:`workers.runtime.dispatch.gates.Gates`. It can fail, and not answer."""

    def __init__(self, *gates: Gate) -> None:
        self.gates: Sequence[Gate] = gates
        self.asked: list[Sequence[AskedStage]] = []
        self.broken = False
        self.answers = asyncio.Event()
        self.answers.set()

    async def look(self, stages: Sequence[AskedStage]) -> Sequence[Gate]:
        self.asked.append(stages)
        await self.answers.wait()
        if self.broken:
            raise ConnectionError("the limits cannot be read")
        return self.gates
