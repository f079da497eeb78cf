"""Refused items are found in a request with accepted ones."""

from collections.abc import Sequence
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.longrun.isolating import isolate_refused
from workers.runtime.handler.errors import Permanent, RateLimited


class Provider:
    """Refuses every request that contains an item of ``bad``, or every request."""

    def __init__(self, bad: set[int], *, refuses_all: bool = False) -> None:
        self._bad = bad
        self._refuses_all = refuses_all
        self.taken: list[int] = []
        self.refused: dict[int, str] = {}

    async def send(self, items: Sequence[int]) -> None:
        if self._refuses_all or self._bad & set(items):
            raise Permanent("too long")
        self.taken += items

    async def probe(self) -> None:
        if self._refuses_all:
            raise Permanent("no such model")

    def refuse(self, item: int, error: Permanent) -> None:
        self.refused[item] = str(error)

    async def isolate(self, items: Sequence[int]) -> None:
        await isolate_refused(items, self.send, probe=self.probe, refuse=self.refuse)


@given(st.integers(1, 40), st.sets(st.integers(0, 39)))
async def test_each_item_is_sent_or_refused(count: int, bad: set[int]) -> None:
    """The order is kept, and no item is sent twice."""
    provider = Provider(bad)

    await provider.isolate(range(count))

    assert provider.taken == [item for item in range(count) if item not in bad]
    assert provider.refused == {item: "too long" for item in range(count) if item in bad}


async def test_provider_that_refuses_anything_is_no_fault_of_the_items() -> None:
    """The probe shows this before any request is halved."""
    provider = Provider(set(), refuses_all=True)

    with pytest.raises(Permanent, match="no such model"):
        await provider.isolate(range(8))

    assert provider.refused == {}


async def test_refusals_known_when_another_error_comes_are_kept() -> None:
    """Another run does not have to find them again."""
    provider = Provider({0})

    async def send(items: Sequence[int]) -> None:
        if items == range(2, 4):
            raise RateLimited("wait", delay=timedelta(seconds=1))
        await provider.send(items)

    with pytest.raises(RateLimited):
        await isolate_refused(range(4), send, probe=provider.probe, refuse=provider.refuse)

    assert provider.refused == {0: "too long"}
