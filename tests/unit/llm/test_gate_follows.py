"""A gate that follows what all processes share."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from workers.llm.pauses import Away, Gate
from workers.runtime.handler.errors import Unavailable

SERVER = "http://a/v1"
PAUSE = Away(datetime.now(UTC), timedelta(minutes=5), "HTTP 402")


class OnePause:
    """A store that has one pause when it is first asked."""

    async def find(self, server: str) -> Mapping[str, Away]:
        return {SERVER: PAUSE} if server == SERVER else {}

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"nobody asks, so {name} is not called")


async def test_a_pause_that_somebody_has_ended_is_told() -> None:
    """Its jobs may have been woken, and refused here once more, before this process knew: they are woken again."""
    told: list[str] = []
    gate = Gate(OnePause())
    gate.on_back = told.append
    with pytest.raises(Unavailable):
        await gate.check(SERVER, "m")

    await gate.follow({SERVER: PAUSE}, began=asyncio.get_running_loop().time() + 1)
    assert told == []
    await gate.follow({}, began=asyncio.get_running_loop().time() + 2)

    assert told == [SERVER]
    await gate.check(SERVER, "m")
