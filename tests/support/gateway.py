"""An app of the gateway for tests: callers by a table of keys, and a client that speaks to it."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import UUID

import httpx2
from fastapi import APIRouter, FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field, SecretStr
from starlette.responses import StreamingResponse

from cli.provider import provider, read_routing
from config.settings import Settings, keys_of
from gateway.app import create_app
from gateway.bodies import Route, max_body
from gateway.callers.caller import Authenticator, Caller
from gateway.callers.dependencies import CallerOf
from gateway.limits import without_place
from gateway.problems import Unauthenticated
from gateway.resources import Resources, services_of
from workers.llm.routing.routing import Routing
from workers.operations.keyring import Keyring, new_key
from workers.runtime.api_keys import SCOPES
from workers.runtime.database import Database, Transaction

OPERATOR = "gm_operator"
SERVICE = "gm_service"
# A dispatcher leads for the next hour.
LED = """INSERT INTO runtime.dispatcher (id, leader, term, seen_at, expires_at)
         VALUES (1, 'd1', 1, now() + interval '1 hour', now())"""
EVERYTHING = "gm_everything"
TENANT = UUID("00000000-0000-4000-8000-00000000000a")
# Callers of the routes of jobs: another tenant, one that may only read, and an operator.
OTHER, OTHER_TENANT = "gm_other", UUID("00000000-0000-4000-8000-00000000000b")
READER, JOBS_OPERATOR = "gm_reader", "gm_jobs_operator"


router = APIRouter(prefix="/test", route_class=Route)


class Thing(BaseModel):
    """A body with every kind of value."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=20)
    number: int = 0
    inside: Any = None


@router.post("/things")
async def post_thing(thing: Thing, caller: CallerOf) -> dict[str, Any]:
    return {"name": thing.name, "caller": caller.name}


@router.post("/large")
@max_body(5_000_000)
async def post_large(thing: Thing) -> dict[str, int]:
    return {"length": len(str(thing.inside))}


@router.get("/boom")
async def fail() -> None:
    raise RuntimeError("the secret reason")


@router.get("/wait")
async def wait_until_stopping(request: Request, caller: CallerOf, seconds: float = 30) -> dict[str, bool]:
    """Wait like a long poll: until the time is up or the process stops."""
    services = services_of(request)
    async with without_place(request):
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await services.stopping.wait()
    return {"stopping": services.stopping.is_set()}


@router.get("/busy")
async def keep_busy(caller: CallerOf, seconds: float) -> dict[str, str]:
    """Keep a place among the running requests."""
    await asyncio.sleep(seconds)
    return {}


@router.get("/hold")
async def hold(request: Request, caller: CallerOf) -> dict[str, str]:
    """Keep a place among the running requests until ``/test/release``."""
    await _release(request).wait()
    return {}


@router.get("/park")
async def park(request: Request, caller: CallerOf) -> dict[str, str]:
    """Wait without a place until ``/test/release?what=park``."""
    async with without_place(request):
        await _release(request, "park").wait()
    return {}


@router.post("/release")
async def release(request: Request, what: str = "hold") -> None:
    _release(request, what).set()


def _release(request: Request, what: str = "hold") -> asyncio.Event:
    state = request.app.state
    if not hasattr(state, "releases"):
        state.releases = {}
    event: asyncio.Event = state.releases.setdefault(what, asyncio.Event())
    return event


@router.get("/client")
async def show_client(request: Request) -> dict[str, str | None]:
    return {"host": request.client.host if request.client else None}


@router.get("/bytes")
async def send_bytes(count: int) -> StreamingResponse:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(count // 65_536):
            yield b"x" * 65_536

    return StreamingResponse(chunks(), media_type="application/octet-stream")


def make_caller(*scopes: str, name: str = "key:test", user_id: UUID | None = None) -> Caller:
    operates = bool({"operate", "operate:read", "admin"} & set(scopes))
    role = "gristmill_operator" if operates else "gristmill_service"
    return Caller(name=name, user_id=user_id, scopes=frozenset(scopes), role=role, key_id=None)


CALLERS = {
    OPERATOR: make_caller("operate", name="key:operator"),
    SERVICE: make_caller("jobs:read", "jobs:write", name="key:service", user_id=TENANT),
    EVERYTHING: make_caller(*SCOPES, name="key:everything"),
    OTHER: make_caller("jobs:read", "jobs:write", name="key:other", user_id=OTHER_TENANT),
    READER: make_caller("jobs:read", name="key:reader", user_id=TENANT),
    JOBS_OPERATOR: make_caller("operate", "jobs:read", "jobs:write", name="key:jobs-operator"),
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


# Without a provider: texts are embedded by feature hashes.
SETTINGS = Settings(openai_api_key=None, openai_base_url=None, secret_keys=SecretStr(new_key()))


async def _read_routing(session: Transaction) -> Routing:
    return (await read_routing(session, SETTINGS)).routing


def make_resources(database_url: str, redis_url: str = "redis://127.0.0.1:1", **options: Any) -> Resources:
    values: dict[str, Any] = {
        "open_authenticator": open_key_table,
        "check_schema": lambda _: None,
        "read_routing": _read_routing,
        "open_model": lambda url: provider(SETTINGS, database_url=url, name="gateway"),
        "keyring": Keyring(keys_of(SETTINGS)),
    } | options
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
    """Yield a client of an app with the routes of this module."""
    app = create_app(make_resources(database_url, **options))
    app.include_router(router)
    async with client_of(app, key) as client:
        yield client
