"""A whole Gristmill in one process that asks a provider or the offline evaluator."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gristmill_testing.mill import Heard, mill
from workers.llm.provider import build
from workers.runtime.handler.registry import Registry


@asynccontextmanager
async def asking_mill(url: str, registry: Registry, *, provider_url: str | None) -> AsyncIterator[Heard]:
    """Run it with the language model at ``provider_url``, or with the offline evaluator."""
    llm = build(
        api_key="sk-test" if provider_url else None,
        base_url=provider_url,
        model=None,
        connect_timeout=2.0,
        timeout=10.0,
        max_connections=200,
    )
    async with mill(url, registry, llm) as heard:
        yield heard
    await llm.aclose()
