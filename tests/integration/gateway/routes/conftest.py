"""The app with the gateway's own login, real keys, and a world of two tenants, an admin and operators."""

import base64
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx2
import psycopg
import pytest
from fastapi import FastAPI
from psycopg.types.json import Jsonb

from gateway.app import create_app
from gateway.callers.authentication import open_authenticator
from local.logins import make_logins
from tests.support.callers import add_user, bearer, make_key
from tests.support.gateway import make_resources
from tests.support.operations_rows import one, put_record
from tests.support.route_table import PDF, REQUEST
from workers.runtime.api_keys import OPERATOR_SCOPES, SCOPES
from workers.runtime.database import Database
from workers.runtime.worker.dead_letters import DeadLetter, DeadLetters

USERS = {"alice": "USER", "bob": "USER", "pat": "PENDING", "root": "ADMIN"}
USER_SCOPES = tuple(scope for scope in SCOPES if scope not in OPERATOR_SCOPES)


@dataclass(slots=True)
class World:
    """The names of all rows, and the keys that were made, by user and scopes."""

    names: dict[str, Any]
    users: dict[str, uuid.UUID]
    database: Database
    keys: dict[tuple[str | None, tuple[str, ...]], str] = field(default_factory=dict)

    async def key(self, user: str | None, *scopes: str) -> dict[str, str]:
        """Return the header of a key of ``user`` (None: an operator's) with these scopes."""
        if (user, scopes) not in self.keys:
            acts_for = None if user is None else self.users[user]
            made = await make_key(self.database, f"k{len(self.keys)}", *scopes, acts_for=acts_for)
            self.keys[user, scopes] = made.secret
        return bearer(self.keys[user, scopes])


@pytest.fixture
def gateway_url(database_url, tmp_path) -> str:
    """The URL of the gateway's login on the test's database."""
    made = make_logins(database_url, tmp_path / "roles", new_passwords=True)
    return next(login.url for login in made if login.kind == "gateway")


@pytest.fixture
async def app(gateway_url, redis_url, registry) -> AsyncIterator[FastAPI]:
    """The app as `gristmill gateway` makes it, without an issuer of tokens."""
    authenticator = partial(open_authenticator, issuer=None, actor_key=None)
    app = create_app(make_resources(gateway_url, redis_url, open_authenticator=authenticator))
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture
async def client(app) -> AsyncIterator[httpx2.AsyncClient]:
    """A client without a key."""
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client


@pytest.fixture
async def world(psql, database) -> World:
    """Alice has a profile, a project with a record, and an assessment. Bob has nothing of his own."""
    users = {name: add_user(psql, f"{name}@example.test", role) for name, role in USERS.items()}
    names: dict[str, Any] = {"assessment": "a-1"}
    with acting_as(psql, users["alice"]):
        names["profile"] = one(psql, "INSERT INTO scoring.profiles (name) VALUES ('Ada') RETURNING id")
        names["job"] = one(psql, "SELECT scoring.enqueue_score(%s, 'Judge.')", names["profile"])
        guidelines = base64.b64encode(PDF).decode()
        names["project"] = one(
            psql,
            'INSERT INTO operations.projects (name, "ownerId", guidelines) VALUES (%s, %s, %s) RETURNING id',
            "corpus",
            users["alice"],
            guidelines,
        )
        names["analysis"] = one(psql, "SELECT operations.enqueue_analytics(%s)", names["project"])
        psql.execute("SELECT assessments.create_assessment('a-1', %s)", [Jsonb(REQUEST)])
    names["record"] = put_record(psql, names["project"], embedding=[1.0, 0.0], embeddingModel="m")
    names["window"] = one(
        psql,
        """INSERT INTO operations.bonus_windows (name, "startTime", "endTime", "createdBy")
           VALUES ('now', now() - interval '1 day', now() + interval '1 day', %s) RETURNING id""",
        users["root"],
    )
    await _operators_rows(psql, database, names)
    return World(names, users, database)


async def _operators_rows(psql: Any, database: Database, names: dict[str, Any]) -> None:
    body = b'[["proving.plain", {}], {"priority": "high"}, {}]'
    await DeadLetters(database).keep(
        DeadLetter(
            "priority must be a number", body, "gristmill.enqueue", "m", "gristmill", "application/json", "utf-8"
        )
    )
    names["dead"] = one(psql, "SELECT id FROM runtime.dead_messages")
    names["call"] = one(
        psql,
        """INSERT INTO llm.calls (id, route, provider, model, kind, state, estimated_input, usd)
           VALUES (uuidv7(), 'default', 'environment', 'm', 'chat', 'settled', 10, 0.5) RETURNING id""",
    )
    names["limit"] = one(
        psql,
        """INSERT INTO llm.limits (measure, at_most, window_seconds, set_by) VALUES ('requests', 1000, 60, 'operator')
           RETURNING id""",
    )
    names["key"] = (await make_key(database, "to-revoke", "operate:read")).key.id


@contextmanager
def acting_as(psql: "psycopg.Connection[Any]", user: uuid.UUID) -> Iterator[None]:
    """Run the block in a transaction in which a user acts, as the owner of the tables."""
    with psql.transaction():
        psql.execute("SELECT set_config('gristmill.user_id', %s, true)", [str(user)])
        yield
