"""Put the app together: what it has open, its routes, its errors."""

import asyncio
import pkgutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from importlib import import_module
from math import inf

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from sqlalchemy import make_url
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import compile_path

from gateway import routes
from gateway.callers.authentication import OPERATOR
from gateway.door import Door
from gateway.events.streams import Streams
from gateway.health import Health
from gateway.job_views import encode_feed_event
from gateway.limits import BodyMemory, Capacity, OpenRequests, RateLimits
from gateway.metrics import Metrics
from gateway.openapi import install_openapi
from gateway.problems import problem_of, render
from gateway.resources import Resources, Services
from gateway.system_metrics import SystemCollector
from models import domains
from models.domains import Domain
from workers.runtime.database import KERNEL_PINS, Database, Raw, options_of, retry_if_broken
from workers.runtime.operate.events import JobEvents
from workers.runtime.operate.feed import Feed
from workers.runtime.refusals import Failed, Refusal
from workers.runtime.store.feed import FeedPage

CHANGED_BY = "gateway"
METHOD_NOT_ALLOWED = 405
# Files that arrive at once in one process. Each may take space on this machine's disk.
MAX_UPLOADS, MAX_WAITING_UPLOADS = 4, 16
# How many batches one process reads at once: each may take a file of its largest size.
MAX_BATCHES, MAX_WAITING_BATCHES = 4, 64


def create_app(resources: Resources) -> FastAPI:
    """Return the app. It opens its connections when it starts and closes them when it ends."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_services(resources, app.state.metrics) as services:
            app.state.services = services
            app.state.metrics.watch(services.database, services.capacity)
            yield

    app = FastAPI(
        title="Gristmill",
        version=resources.version,
        lifespan=lifespan,
        openapi_url=None,  # these pages are in gateway/routes/docs.py
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"logs": False},  # they would hold values of invalid requests
    )
    for router in find_routers(domains.installed()):
        app.include_router(router)
    for kind in (Refusal, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _answer_error)
    install_openapi(app)
    app.state.metrics = Metrics()
    app.state.system = SystemCollector()
    app.state.metrics.registry.register(app.state.system)
    app.add_middleware(Door, metrics=app.state.metrics)
    return app


@asynccontextmanager
async def open_services(resources: Resources, metrics: Metrics) -> AsyncIterator[Services]:
    """Open what the app uses while it runs."""
    async with AsyncExitStack() as stack:
        database = Database(resources.database_url, changed_by=CHANGED_BY, pool_size=resources.pool_size)
        stack.push_async_callback(database.close)
        operators_url = in_role(resources.database_url, OPERATOR)
        operators = Database(operators_url, changed_by=CHANGED_BY, pool_size=1)
        stack.push_async_callback(operators.close)
        model = resources.open_model(operators_url)
        stack.push_async_callback(model.aclose)
        # The gateway outlives every outage: its streams go on when Postgres is back.
        # They see every job; the routes check first what the caller sees.
        source = JobEvents(
            resources.database_url, changed_by=CHANGED_BY, patience=inf, role=OPERATOR, settings=KERNEL_PINS
        )
        events = await stack.enter_async_context(source)
        feed = Feed(events, read_all=partial(_read_as_operator, database), encode=encode_feed_event)
        await stack.enter_async_context(feed.running())
        authenticator = await stack.enter_async_context(resources.open_authenticator(database))
        rates = RateLimits(resources.redis_url, per_minute=resources.requests_per_minute)
        stack.push_async_callback(rates.close)
        stopping = asyncio.Event()
        streams = Streams(stopping, metrics.streams)
        ending = asyncio.create_task(streams.end_at_stop())
        stack.callback(ending.cancel)
        health = Health(
            database, resources.redis_url, check_schema=resources.check_schema, events=events, stopping=stopping
        )
        stack.push_async_callback(health.close)
        yield Services(
            resources=resources,
            database=database,
            operators=operators,
            model=model,
            events=events,
            authenticator=authenticator,
            rates=rates,
            capacity=Capacity(running=resources.concurrency, queued=resources.queue, seconds=resources.queue_seconds),
            bodies=BodyMemory(),
            uploads=_few(resources, running=MAX_UPLOADS, queued=MAX_WAITING_UPLOADS),
            health=health,
            stopping=stopping,
            feed=feed,
            streams=streams,
            batches=_few(resources, running=MAX_BATCHES, queued=MAX_WAITING_BATCHES),
            open_requests=OpenRequests(max(1, resources.max_connections // 2)),
        )


def _few(resources: Resources, *, running: int, queued: int) -> Capacity:
    """Return the capacity for requests with large bodies. They may take minutes, so no key gets all places."""
    return Capacity(running=running, queued=queued, seconds=resources.queue_seconds, running_per_key=running - 1)


async def _read_as_operator(database: Database, query: Callable[[Raw], Awaitable[FeedPage]]) -> FeedPage:
    async def read() -> FeedPage:
        async with database.kernel() as conn, conn.transaction():
            await conn.execute("SELECT set_config('role', %s, true)", [OPERATOR])
            return await query(conn)

    return await retry_if_broken(read)


def in_role(database_url: str, role: str) -> str:
    """Return a URL with which the same login has the rights of ``role``, from the beginning of each session."""
    url = make_url(database_url)
    options = " ".join(filter(None, (options_of(url), f"-c role={role}")))
    return url.set(query={**url.query, "options": options}).render_as_string(hide_password=False)


def find_routers(brought: Iterable[Domain]) -> list[APIRouter]:
    """Return the routers of :mod:`gateway.routes`, and those of the domains ``brought`` (their module ``routes``)."""
    # A path is compared with one route after the other: those of jobs, which are asked most, come first.
    found = sorted((one.name for one in pkgutil.iter_modules(routes.__path__)), key=lambda name: name[:3] != "job")
    names = [f"{routes.__name__}.{name}" for name in found]
    names += [f"{domain.package}.routes" for domain in brought if domain.has("routes")]
    return [_router_of(name) for name in names]


def _router_of(name: str) -> APIRouter:
    router = getattr(import_module(name), "router", None)
    if not isinstance(router, APIRouter):
        raise Failed(f"{name} must have a `router` (fastapi.APIRouter)")
    return router


async def _answer_error(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException) and error.status_code == METHOD_NOT_ALLOWED:
        error.headers = {"Allow": ", ".join(sorted(_methods_of(request)))}
    return render(problem_of(error), request.scope)


def _methods_of(request: Request) -> set[str]:
    """Return the methods of the path of a request: the router names only those of its first route with this path."""
    found: set[str] = set()
    for context in iter_route_contexts(request.app.routes):
        if context.path is not None and compile_path(context.path)[0].match(request.scope["path"]):
            found.update(context.methods or ())
    return found | ({"HEAD"} if "GET" in found else set())  # the door answers HEAD
