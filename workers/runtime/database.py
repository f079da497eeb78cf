"""Connections to Postgres: one pool for the kernel's own statements, one for handlers and all others.

The kernel's pool keeps the planner from reading whole tables for a batch, whatever the statistics are
(:data:`workers.runtime.store.tables.TICKETS`). Its connections commit each statement by itself, except in
:meth:`Database.kernel_transaction`.
"""

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, NamedTuple, TypeVar, cast

import psycopg
from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

from workers.runtime.backoff import full_jitter
from workers.runtime.connections import (
    KEEPALIVE,
    changed_by_setting,
    connect_async,
    prepare,
    refuse_old_server,
    startup,
)

T = TypeVar("T")

KERNEL_PINS = (
    # These statements take milliseconds: jit must stay off, even if a long backlog makes them look expensive.
    "-c enable_seqscan=off -c enable_bitmapscan=off -c enable_mergejoin=off -c jit=off "
    "-c enable_indexscan=on -c enable_nestloop=on "
    # A generic plan is made for a small batch: for a large one it would compare each pair.
    "-c plan_cache_mode=force_custom_plan"
)
# Longest wait for a connection that other jobs of this process hold.
POOL_SECONDS = 30
# A statement that waits longer for a lock is cancelled and tried again, so that waits do not pile up.
LOCK_MILLISECONDS = 10_000
# For the kernel's statements: one locked row must not block a carrier task, a table's outcomes or the leader. If a
# process freezes inside a transaction, Postgres ends its session, so that its jobs can be rescued, cancelled or run.
KERNEL_WAITS = "-c lock_timeout=1s -c idle_in_transaction_session_timeout=10s"
# A peer that is gone without closing the connection holds its locks at most this long: idle, interval, count.
SERVER_KEEPALIVE = "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3"
# No statement of the kernel takes this long. A connection without an answer by then is broken, although something
# between it and Postgres still acknowledges its TCP packets.
ANSWER_SECONDS = 20.0
# The longest transaction with writes of handlers: other jobs of its table wait for it.
TRANSACTION_SECONDS = 30.0

# Enough for the claims of all carrier tasks, a settle and others. Kept open, as opening one costs as much as a claim.
KERNEL_CONNECTIONS = 17

Raw = psycopg.AsyncConnection[Any]
# One transaction of the general pool, for the doors, which do not import SQLAlchemy.
Transaction = AsyncSession
DISCONNECTED = (psycopg.OperationalError, psycopg.InterfaceError)


class PoolUse(NamedTuple):
    """The connections of a pool."""

    open: int
    in_use: int


class Database:
    """The pools of one process. ``changed_by`` names this process in ``runtime.transitions``.

    ``idle_seconds`` is how long a session of the general pool may be idle inside a transaction before Postgres ends it
    and releases its locks; None means for ever.
    """

    def __init__(self, url: str, *, changed_by: str, pool_size: int = 5, idle_seconds: float | None = None) -> None:
        self._url = make_url(url).set(drivername="postgresql+psycopg")
        self.changed_by = changed_by
        self._kernel = self._engine(
            pins=f"{KERNEL_PINS} {KERNEL_WAITS}",
            # All are kept: a connection that is opened for one statement costs more than the statement.
            pool_size=KERNEL_CONNECTIONS,
            max_overflow=0,
            isolation_level="AUTOCOMMIT",
            pool_use_lifo=True,
        )
        self._broken_at = -math.inf
        self._disposal: asyncio.Future[None] | None = None
        event.listen(self._kernel.sync_engine, "connect", _note_time)
        event.listen(self._kernel.sync_engine, "checkout", self._replace_broken)
        idle = f"-c idle_in_transaction_session_timeout={idle_seconds:g}s" if idle_seconds else ""
        self._general = self._engine(pins=idle, pool_size=pool_size, pool_pre_ping=True)

    def _engine(self, *, pins: str = "", **options: Any) -> AsyncEngine:
        engine = create_async_engine(
            self._url,
            connect_args={
                **KEEPALIVE,
                **startup(options_of(self._url), self._settings(pins)),
                "application_name": self.changed_by[:63],
            },
            hide_parameters=True,  # an error's text must not quote payloads
            **{"max_overflow": 5, "pool_timeout": POOL_SECONDS} | options,
        )
        event.listen(engine.sync_engine, "connect", prepare)
        event.listen(engine.sync_engine, "handle_error", partial(_refuse_old_server, libpq_url(self._url)))
        return engine

    @asynccontextmanager
    async def kernel(self) -> AsyncIterator[Raw]:
        """Yield an autocommitting psycopg connection. If it breaks, the pool replaces all connections open by then."""
        async with self._kernel.connect() as connection:
            raw = await _raw(connection)
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    yield raw
            except (psycopg.Error, TimeoutError) as error:
                if raw.closed:
                    await connection.invalidate()
                    self._broken_at = time.monotonic()
                    if isinstance(error, TimeoutError):
                        self.replace_connections()
                raise

    def replace_connections(self) -> None:
        """Make both pools replace every connection that is open now, because one of them gave no answer."""
        self._broken_at = time.monotonic()
        # The general pool's own check is a query, which would get no answer. Connections in use stay open.
        self._disposal = asyncio.ensure_future(self._general.dispose())

    def _replace_broken(self, _connection: object, record: ConnectionPoolEntry, _proxy: object) -> None:
        """Make the pool replace a connection that was open when another one broke: it is probably broken too."""
        if record.info["connected_at"] <= self._broken_at:
            raise DisconnectionError("connected before Postgres went away")

    @asynccontextmanager
    async def kernel_transaction(self) -> AsyncIterator[tuple[Raw, AsyncSession]]:
        """Yield one transaction as a psycopg connection and as a session; commit if the block raises nothing."""
        async with self._kernel.connect() as connection:
            raw = await _raw(connection)
            try:
                transactional = await connection.execution_options(isolation_level="READ COMMITTED")
                async with (
                    asyncio.timeout(TRANSACTION_SECONDS),
                    transactional.begin(),
                    AsyncSession(transactional, join_transaction_mode="rollback_only") as session,
                ):
                    yield raw, session
                    await session.flush()
            except (psycopg.Error, DBAPIError, TimeoutError) as error:
                if raw.closed:
                    self._broken_at = time.monotonic()
                    if isinstance(error, TimeoutError):
                        raise psycopg.OperationalError("no answer to a transaction") from error
                raise

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncSession]:
        """Yield a session of the general pool; commit if the block raises nothing, else roll back."""
        async with AsyncSession(self._general, expire_on_commit=False) as session, session.begin():
            yield session

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Raw]:
        """Yield a psycopg connection of the general pool in one transaction; commit if the block raises nothing."""
        async with self._general.connect() as connection:
            raw = await _raw(connection)
            try:
                async with raw.transaction():
                    yield raw
            finally:
                if raw.closed:
                    await connection.invalidate()

    async def listen(self, *, autocommit: bool = True, settings: str = "") -> Raw:
        """Open a separate connection, outside the pools: for LISTEN, and for the leading dispatcher."""
        return await connect_async(
            libpq_url(self._url),
            autocommit=autocommit,
            settings=self._settings(settings),
            application_name=self.changed_by[:63],
        )

    def _settings(self, more: str) -> str:
        """Return the settings of every session, as command line options of Postgres."""
        return f"{changed_by_setting(self.changed_by)} -c lock_timeout={LOCK_MILLISECONDS} {SERVER_KEEPALIVE} {more}"

    def pool_use(self) -> dict[str, PoolUse]:
        """Return how many connections of each pool are open now, and how many of them are in use."""
        engines = {"kernel": self._kernel, "general": self._general}
        pools = {name: cast("QueuePool", engine.pool) for name, engine in engines.items()}
        return {
            name: PoolUse(open=pool.checkedin() + pool.checkedout(), in_use=pool.checkedout())
            for name, pool in pools.items()
        }

    async def close(self) -> None:
        """Close every pooled connection."""
        await self._kernel.dispose()
        await self._general.dispose()


def pinned_engine(url: URL | str, *, settings: str = "", application_name: str | None = None, **options: Any) -> Engine:
    """Return an engine for code without asyncio (beat, migrations); its connections have the pinned settings."""
    address = make_url(url).set(drivername="postgresql+psycopg")
    arguments = {**KEEPALIVE, **startup(options_of(address), settings)}
    if application_name:
        arguments["application_name"] = application_name
    engine = create_engine(address, connect_args=arguments, hide_parameters=True, **options)
    event.listen(engine, "connect", prepare)
    event.listen(engine, "handle_error", partial(_refuse_old_server, libpq_url(address)))
    return engine


def _refuse_old_server(conninfo: str, context: ExceptionContext) -> None:
    """Raise TooOldServerError if the connection was refused because the server is too old."""
    if context.connection is None and isinstance(context.original_exception, psycopg.OperationalError):
        refuse_old_server(context.original_exception, conninfo)


def options_of(url: URL) -> str | None:
    """Return the ``options`` of ``url``."""
    found = url.query.get("options")
    return " ".join(found) if isinstance(found, tuple) else found


def libpq_url(url: URL | str) -> str:
    """Return ``url`` as libpq and psycopg read it. It includes the password: never log it."""
    address, question, query = (
        make_url(url).set(drivername="postgresql").render_as_string(hide_password=False).partition("?")
    )
    return address + question + query.replace("+", "%20")  # a blank: libpq does not read a plus as one


def _note_time(_connection: object, record: ConnectionPoolEntry) -> None:
    record.info["connected_at"] = time.monotonic()


async def raw_of(session: AsyncSession) -> Raw:
    """Return the psycopg connection of a session, in its transaction: for statements that need no ORM."""
    return await _raw(await session.connection())


async def _raw(connection: AsyncConnection) -> Raw:
    return cast("Raw", (await connection.get_raw_connection()).driver_connection)


# Classes of errors about the state of Postgres: connections, resources, operators, system; then single errors.
UNREACHABLE = ("08", "53", "57P", "58")
INTERFERENCE = ("40", "55P03", "57014")
TRANSIENT = (*INTERFERENCE, "25006", "25P03")


def _sqlstate(error: BaseException) -> str | None:
    """Return the SQLSTATE of ``error``: "" if Postgres sent none, None if it is not an error of the driver."""
    error = getattr(error, "orig", None) or error
    if isinstance(error, DISCONNECTED) or (isinstance(error, psycopg.Error) and error.sqlstate):
        return error.sqlstate or ""
    return None


def is_unreachable(error: BaseException) -> bool:
    """Tell whether the database is gone, restarting, out of space or without a primary, for any statement."""
    match _sqlstate(error):
        case None:
            return isinstance(error, PoolTimeoutError) or (
                isinstance(error, OSError) and not isinstance(error, TimeoutError)
            )
        case "" | "25006":
            return True
        case state:
            return state.startswith(UNREACHABLE)


def is_unusable(error: BaseException) -> bool:
    """Tell whether Postgres cannot serve for a reason that is not the statement's fault.

    Postgres is full, read-only, out of connections or gone, or other sessions interfere: a lock, a deadlock, a
    serialization failure, a statement timeout or a cancelled statement.
    """
    error = getattr(error, "orig", None) or error
    if not isinstance(error, psycopg.Error):
        return False
    if error.sqlstate is None:
        return isinstance(error, psycopg.OperationalError)
    return error.sqlstate.startswith((*UNREACHABLE, *INTERFERENCE, "25006"))


def is_locked(error: BaseException) -> bool:
    """Tell whether a statement was cancelled because another session holds a lock that it needs."""
    return _sqlstate(error) == "55P03"


def is_database_away(error: BaseException) -> bool:
    """Tell whether ``error`` comes from the database's state (gone, restarting, a lock): another try may succeed."""
    state = _sqlstate(error)
    return is_unreachable(error) or isinstance(error, TimeoutError) or bool(state and state.startswith(TRANSIENT))


# Classes of errors that one row can cause: data, constraints, program limits, raised exceptions, internal errors; then
# single errors: out of memory.
CAUSED_BY_A_ROW = ("22", "23", "54", "P0", "XX", "53200")


def is_caused_by_a_row(error: BaseException) -> bool:
    """Tell whether one row of a batch may be the cause of ``error``: without that row the statement may succeed."""
    state = _sqlstate(error)
    return bool(state and state.startswith(CAUSED_BY_A_ROW))


async def retry_if_broken(do: Callable[[], Awaitable[T]]) -> T:
    """Call ``do`` and return its result; call it once more if its connection was broken, which a pool cannot know.

    Only for what may be done twice.
    """
    try:
        return await do()
    except (psycopg.Error, DBAPIError) as error:
        if not is_unreachable(error):
            raise
    return await do()


async def retry_while_away(do: Callable[[], Awaitable[T]], *, attempts: int = 8) -> T:
    """Call ``do`` and return its result; retry while the database is away, raise every other error at once.

    A paid result so survives half a minute without Postgres: eight attempts wait 39 s on average.
    """
    for attempt in range(1, attempts):
        try:
            return await do()
        except Exception as error:
            if not is_database_away(error):
                raise
            await asyncio.sleep(full_jitter(min(attempt, 4), draw=random.random).total_seconds())
    return await do()
