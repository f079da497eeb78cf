"""Requests for vectors that run at the same time: what the failure of one means for the others."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Sequence
from datetime import timedelta
from typing import Any

import pytest

from workers.runtime.handler.errors import Permanent, RateLimited, Retryable
from workers.runtime.handler.ports import EmbeddingLimits, Embeddings, Purpose
from workers.vectorization.pending import PendingRecord
from workers.vectorization.vector_requests import VectorRequest, VectorRequester, VectorRequests


class Limited:
    """A provider that returns a rate limit for the text "limited", and then ``fault`` for all others."""

    embedding_limits = EmbeddingLimits()

    def __init__(self, fault: Exception) -> None:
        self.asked: list[list[str]] = []
        self._fault = fault
        self._used_up = asyncio.Event()

    async def embedding_model(self) -> str:
        return "m"

    async def embed(self, texts: Sequence[str], *, model: str, purpose: Purpose = "document") -> Embeddings:
        self.asked.append(list(texts))
        if texts == ["limited"]:
            self._used_up.set()
            raise RateLimited("wait", delay=timedelta(seconds=3))
        await self._used_up.wait()
        raise self._fault

    async def resolve(self, model: str) -> str:
        raise NotImplementedError

    async def parse(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    async def aclose(self) -> None:
        """Nothing to close."""


async def requests(*inputs: Sequence[str]) -> AsyncGenerator[VectorRequest, None]:
    for texts in inputs:
        yield VectorRequest([PendingRecord(uuid.uuid4(), text) for text in texts], "m")


@pytest.mark.parametrize("fault", [Permanent("too long"), Retryable("HTTP 503")], ids=["refused", "failed"])
async def test_rate_limit_of_one_request_stops_the_repeats_and_halvings_of_the_others(fault: Exception) -> None:
    """Each would be one more request while the provider is rate-limiting."""
    provider = Limited(fault)
    requester = VectorRequester(provider)

    async with VectorRequests(requests(["a", "b"], ["limited"], ["c"]), requester.ask, at_once=2) as in_flight:
        with pytest.raises(RateLimited, match="wait"):
            await anext(in_flight.groups())

    assert provider.asked == [["a", "b"], ["limited"]]
    assert requester.refused == {}
