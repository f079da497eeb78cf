"""Embedding the passages of a document: what several errors at once mean."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from workers.analytics.passage_store import PassageStore
from workers.analytics.passages import Passage
from workers.runtime.handler.errors import Permanent, RateLimited
from workers.runtime.handler.ports import EmbeddingLimits, Embeddings

PASSAGES = [Passage(number, 1, f"passage {number}") for number in (1, 2, 3)]


def limited(seconds: float) -> RateLimited:
    return RateLimited(f"wait {seconds:g}", delay=timedelta(seconds=seconds))


class Failing:
    """A provider that answers each of three requests in flight with another error."""

    embedding_limits = EmbeddingLimits(texts=1, requests=3)

    def __init__(self, errors: Sequence[Exception]) -> None:
        self._errors = list(errors)
        self._all_asked = asyncio.Barrier(len(errors))

    async def embed(self, _texts: Sequence[str], *, model: str) -> Embeddings:
        error = self._errors.pop(0)
        await self._all_asked.wait()
        raise error


@pytest.mark.parametrize(
    ("errors", "raised"),
    [
        ([Permanent("refused"), limited(2), limited(9)], "wait 9"),
        ([limited(9), Permanent("refused"), limited(2)], "wait 9"),
        ([Permanent("refused"), Permanent("refused"), Permanent("refused")], "refused"),
    ],
)
async def test_of_several_errors_the_longest_rate_limit_is_raised(errors: list[Exception], raised: str) -> None:
    """A rate-limited job is not ended by another error at the same time."""
    document = PassageStore(cast("Any", SimpleNamespace(llm=Failing(errors))), b"digest", "m")

    with pytest.raises((RateLimited, Permanent), match=raised):
        await document.embed(PASSAGES, [])
