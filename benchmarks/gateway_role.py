"""Run a server for the benchmark of the gateway: ``python -m benchmarks.gateway_role ours|bare PORT``.

``ours`` is the whole gateway, with real keys, limits and logs. ``bare`` is what one writes first: FastAPI, a model of
pydantic, a session of SQLAlchemy, one row. Both run in one process, on the same server of HTTP.
"""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from fastapi import FastAPI
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from config.logging import configure
from models.scoring import ScoringJob

REQUESTS_PER_MINUTE = 10_000_000
POOL = 10


class Wanted(BaseModel):
    """The body of the bare route."""

    profile_id: UUID
    prompt: str


def bare_app(database_url: str) -> FastAPI:
    """Return an app with one route, which inserts the same row into the same table."""
    url = database_url.replace("postgresql://", "postgresql+psycopg://", 1)
    engine = create_async_engine(url, pool_size=POOL, max_overflow=0)
    sessions = async_sessionmaker(engine, expire_on_commit=False)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await engine.dispose()

    app = FastAPI(lifespan=lifespan)

    @app.post("/v1/jobs", status_code=201)
    async def insert(wanted: Wanted) -> dict[str, Any]:
        async with sessions() as session:
            job = ScoringJob(profile_id=wanted.profile_id, prompt=wanted.prompt)
            session.add(job)
            await session.commit()
        return {"id": job.id}

    return app


def run_ours(database_url: str, redis_url: str, port: int) -> int:
    """Run the gateway until SIGTERM."""
    from dataclasses import replace

    from cli.gateway_resources import resources_of
    from config.settings import Settings
    from gateway.server import run_gateway
    from workers.runtime.handler.registry import discover

    configure("json", "INFO")
    discover()
    resources = replace(
        resources_of(Settings(), database_url=database_url, redis_url=redis_url),
        check_schema=lambda _: None,
        requests_per_minute=REQUESTS_PER_MINUTE,
        pool_size=POOL,
    )
    return run_gateway(resources, address="127.0.0.1", port=port, grace_seconds=1)


def main() -> int:
    """Run one of the two."""
    _, which, port = sys.argv
    database_url = os.environ["DATABASE_URL"]
    if which == "ours":
        return run_ours(database_url, os.environ["REDIS_URL"], int(port))
    import uvicorn

    uvicorn.run(
        bare_app(database_url), host="127.0.0.1", port=int(port), log_level="warning", http="h11", loop="asyncio"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
