"""A gateway's callers for tests: keys in the database, an app of a few routes without checks, requests to it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID, uuid4

import httpx2
from fastapi import Depends, FastAPI, Request
from sqlalchemy import text
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from gateway.callers.authentication import HeaderAuthenticator, authorization_of, open_authenticator
from gateway.callers.caller import Caller
from gateway.callers.sessions import connection_of, session_of
from gateway.problems import HttpProblem, problem_of, render
from workers.runtime.actor import Actor
from workers.runtime.database import Database
from workers.runtime.operate.api_keys import NewApiKey, create_key
from workers.runtime.refusals import Refusal

TESTER = Actor(changed_by="tester")


async def make_key(database: Database, name: str, *scopes: str, acts_for: UUID | None = None, **more: Any) -> NewApiKey:
    """Make a key with the login of ``database``."""
    async with database.kernel() as conn:
        return await create_key(conn, TESTER, name=name, scopes=scopes, acts_for=acts_for, **more)


def add_user(psql: Any, email: str, role: str = "USER") -> UUID:
    """Add a user with a role, as the owner of the tables."""
    user: UUID = psql.execute("INSERT INTO auth.users (email) VALUES (%s) RETURNING id", [email]).fetchone()["id"]
    psql.execute("UPDATE operations.profiles SET role = %s WHERE id = %s", [role, user])
    return user


class RequestIds:
    """Gives each request its id, as the gateway's door does."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope.setdefault("state", {})["request_id"] = str(uuid4())
        await self.app(scope, receive, send)


async def _answer_error(request: Request, error: Exception) -> Response:
    return render(problem_of(error), request.scope)


@dataclass
class Open:
    """What sessions and callers use of an app's services."""

    database: Database
    authenticator: HeaderAuthenticator


async def _find_caller(request: Request) -> Caller:
    services: Open = request.app.state.services
    return await services.authenticator.authenticate(authorization_of(request))


CallerOf = Annotated[Caller, Depends(_find_caller)]


def make_app(services: Open) -> FastAPI:
    """Return an app whose routes check nothing: they run the statement that they are sent, as the caller."""
    app = FastAPI()
    app.state.services = services
    app.add_middleware(RequestIds)
    for kind in (Refusal, HttpProblem, Exception):
        app.add_exception_handler(kind, _answer_error)

    @app.get("/me")
    async def me(caller: CallerOf) -> dict[str, Any]:
        return {"name": caller.name, "user_id": caller.user_id, "scopes": sorted(caller.scopes), "role": caller.role}

    @app.post("/sql")
    async def run(request: Request, caller: CallerOf) -> Response:
        statement = await request.body()
        async with connection_of(request, caller) as conn:
            cursor = await conn.execute(statement)
            rows = await cursor.fetchall() if cursor.description else []
        return JSONResponse([[str(value) for value in row] for row in rows])

    @app.post("/session")
    async def run_in_session(request: Request, caller: CallerOf) -> Response:
        statement = (await request.body()).decode()
        async with session_of(request, caller) as session:
            rows = (await session.execute(text(statement))).all()
        return JSONResponse([[str(value) for value in row] for row in rows])

    return app


@asynccontextmanager
async def open_app(gateway_url: str, **options: Any) -> AsyncIterator[FastAPI]:
    """Yield the app, connected with the login of the gateway."""
    database = Database(gateway_url, changed_by="gateway")
    try:
        async with open_authenticator(database, **options) as authenticator:
            yield make_app(Open(database, authenticator))
    finally:
        await database.close()


@asynccontextmanager
async def client_of(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    """Yield a client of ``app`` without a network."""
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False, client=("192.0.2.7", 1234))
    async with httpx2.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client


def bearer(secret: str) -> dict[str, str]:
    """Return the header with a key or a token."""
    return {"Authorization": f"Bearer {secret}"}
