"""What the app is given, and what it has open while it runs.

The command ``gristmill gateway`` makes :class:`Resources` from the settings; the app's lifespan opens
:class:`Services`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import timedelta

from fastapi import Request

from gateway.callers.caller import Authenticator
from gateway.events.streams import Streams
from gateway.health import Health
from gateway.limits import BodyMemory, Capacity, OpenRequests, RateLimits
from workers.llm.routing.routing import Routing
from workers.notifications.rules import CallbackRules
from workers.operations.keyring import Keyring
from workers.runtime.database import Database, Transaction
from workers.runtime.handler.ports import LanguageModel
from workers.runtime.operate.events import JobEvents
from workers.runtime.operate.feed import Feed


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What the app needs, as plain values.

    ``requests_per_minute`` is for each key. At most ``concurrency`` requests run at once, and ``queue`` more wait for
    at most ``queue_seconds``. ``metrics_token`` opens ``/metrics`` without a database. ``callbacks`` has the key of
    stored secrets, and the addresses inside the network that may be called.
    ``open_authenticator`` is entered for the life of the app. ``check_schema`` gets the revisions of the database
    (:func:`~workers.runtime.operate.server.read_revisions`) and returns what does not fit this release, or None.
    ``read_routing`` returns the providers and routes of now. ``open_model`` gets the URL of a database and returns the
    model that makes the vectors of searched texts; it opens nothing before its first call. ``keyring`` encrypts the
    secrets of operators. ``transitions_retention`` is for the maintenance actions that operators run.
    """

    database_url: str = field(repr=False)
    redis_url: str = field(repr=False)
    open_authenticator: Callable[[Database], AbstractAsyncContextManager[Authenticator]]
    check_schema: Callable[[Mapping[str, str]], str | None]
    read_routing: Callable[[Transaction], Awaitable[Routing]]
    open_model: Callable[[str], LanguageModel]
    keyring: Keyring = field(repr=False)
    transitions_retention: timedelta = timedelta(days=90)
    pool_size: int = 10
    version: str = "0"
    requests_per_minute: int = 60_000
    concurrency: int = 32
    queue: int = 512
    queue_seconds: float = 5.0
    max_connections: int = 10_000
    callbacks: CallbackRules = CallbackRules(keyring=Keyring(()))  # noqa: RUF009 - it holds nothing
    metrics_token: str | None = field(default=None, repr=False)


@dataclass(slots=True, kw_only=True)
class Services:
    """What a running app has open. ``stopping`` is set when the process stops: whoever waits then answers at once.

    ``database`` has the rights of the gateway's login, which are few. ``operators`` and ``model`` have those of an
    operator: only routes that need an operator's scope use ``operators``. ``events`` and ``feed`` see every job: first
    check that the caller sees the job. ``uploads`` bounds how many files arrive at once, ``batches`` how many batches
    are read at once, ``open_requests`` how many requests of one key are open.
    """

    resources: Resources
    database: Database
    operators: Database
    model: LanguageModel
    events: JobEvents
    authenticator: Authenticator
    rates: RateLimits
    capacity: Capacity
    bodies: BodyMemory
    uploads: Capacity
    health: Health
    stopping: asyncio.Event
    feed: Feed
    streams: Streams
    batches: Capacity
    open_requests: OpenRequests


def services_of(request: Request) -> Services:
    """Return what the app of this request has open."""
    services: Services = request.app.state.services
    return services
