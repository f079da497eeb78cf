"""An app of the gateway for tests: callers by a table of keys, and a client that speaks to it."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import httpx2
from fastapi import FastAPI

from gateway.app import create_app
from gateway.callers.caller import Authenticator, Caller
from gateway.problems import Unauthenticated
from gateway.resources import Resources
from workers.runtime.database import Database

OPERATOR = "gm_operator"
SERVICE = "gm_service"
TENANT = UUID("00000000-0000-4000-8000-00000000000a")


def make_caller(*scopes: str, name: str = "key:test", user_id: UUID | None = None) -> Caller:
    operates = bool({"operate", "operate:read", "admin"} & set(scopes))
    role = "gristmill_operator" if operates else "gristmill_service"
    return Caller(name=name, user_id=user_id, scopes=frozenset(scopes), role=role, key_id=None)


CALLERS = {
    OPERATOR: make_caller("operate", name="key:operator"),
    SERVICE: make_caller("jobs:read", "jobs:write", name="key:service", user_id=TENANT),
}


class KeyTable:
    """Finds callers in a table of keys."""

    def __init__(self, callers: Mapping[str, Caller]) -> None:
        self._callers = callers

    async def authenticate(self, header: str | None) -> Caller:
        caller = self._callers.get((header or "").removeprefix("Bearer "))
        if caller is None:
            raise Unauthenticated
        return caller


@asynccontextmanager
async def open_key_table(_database: Database) -> AsyncIterator[Authenticator]:
    yield KeyTable(CALLERS)


def make_resources(database_url: str, redis_url: str = "redis://127.0.0.1:1", **options: Any) -> Resources:
    values = {"open_authenticator": open_key_table, "check_schema": lambda _: None} | options
    return Resources(database_url=database_url, redis_url=redis_url, **values)


@asynccontextmanager
async def client_of(app: FastAPI, key: str | None = OPERATOR) -> AsyncIterator[httpx2.AsyncClient]:
    """Yield a client of ``app`` without a network, while the app has its services open."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    transport = httpx2.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://gateway", headers=headers) as client,
    ):
        yield client


@asynccontextmanager
async def open_client(
    database_url: str, key: str | None = OPERATOR, **options: Any
) -> AsyncIterator[httpx2.AsyncClient]:
    async with client_of(create_app(make_resources(database_url, **options)), key) as client:
        yield client
