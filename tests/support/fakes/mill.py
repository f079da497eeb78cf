"""A whole Gristmill in one process that asks a provider or the offline evaluator."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from gristmill_testing.mill import Heard, mill
from tests.support.kept_model import KeptModel
from workers.llm.kept.postgres_kept import PostgresKept
from workers.llm.provider import build
from workers.runtime.database import Database
from workers.runtime.handler.registry import Registry


@asynccontextmanager
async def asking_mill(
    url: str, registry: Registry, *, provider_url: str | None, **options: Any
) -> AsyncIterator[Heard]:
    """Run a mill whose language model is the server at ``provider_url``, or the offline evaluator; answers are kept."""
    llm = build(
        api_key="sk-test" if provider_url else None,
        base_url=provider_url,
        model=None,
        connect_timeout=2.0,
        timeout=10.0,
        max_connections=200,
    )
    database = Database(url, changed_by="worker:kept")
    kept = PostgresKept(database)
    model = KeptModel(llm, kept, close_kept=kept.aclose)
    async with mill(url, registry, model, **options) as heard:
        yield heard
    await model.aclose()
    await database.close()
