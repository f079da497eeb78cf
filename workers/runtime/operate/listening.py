"""One connection that listens for notifications, runs queries of others, and reconnects after a restart of Postgres."""

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Self, TypeVar

import psycopg

from workers.runtime.database import Database, Raw, is_unreachable
from workers.runtime.refusals import Failed

T = TypeVar("T")

MAX_OUTAGE_SECONDS = 300.0
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.2, 2.0
AWAY, BACK = "Postgres cannot be reached; waiting for it to come back", "Postgres is back"


class _Query:
    """A query and the future of its answer. After a restart of Postgres it may run twice."""

    def __init__(self, run: Callable[[Raw], Awaitable[Any]]) -> None:
        self.run = run
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()


class NotificationListener(ABC):
    """A connection that one task uses: it runs the queries of others one after the other, and listens in between.

    ``tell`` gets a line when Postgres goes away and another when it is back. Callers wait up to ``patience`` seconds
    for Postgres, then get the first error. ``role`` is the role of Postgres that the connection takes; None keeps that
    of its login. ``settings`` (``-c …``) are further settings of the connection. A subclass handles the notifications.
    """

    def __init__(
        self,
        database_url: str,
        *,
        changed_by: str,
        tell: Callable[[str], None] = lambda _: None,
        patience: float = MAX_OUTAGE_SECONDS,
        role: str | None = None,
        settings: str = "",
    ) -> None:
        self._database_url = database_url
        self._role = role
        self._settings = settings
        self._changed_by = changed_by
        self._tell = tell
        self._patience = patience
        self._queries: deque[_Query] = deque()
        self._wake = asyncio.Event()
        self._failure: BaseException | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Connect. Raise at once if the server does not answer."""
        self._task = asyncio.create_task(self._run(await self._connect()), name=type(self).__name__)
        await asyncio.sleep(0)  # from its first step on the task closes the connection, also if it is cancelled
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._fail(Failed("jobs are not followed any more: this process stops"))

    @property
    def failure(self) -> BaseException | None:
        """Why nothing is followed any more; None while it works, also during an outage of Postgres."""
        return self._failure

    async def ask(self, query: Callable[[Raw], Awaitable[T]]) -> T:
        """Return the answer of ``query``; while Postgres is away, wait and run it again.

        Queries run one at a time: a slow one delays all others.
        """
        self._check()
        waiting = _Query(query)
        self._queries.append(waiting)
        self._wake.set()
        answer: T = await waiting.answer
        return answer

    @property
    @abstractmethod
    def _channel(self) -> str:
        """The channel to listen to."""

    @abstractmethod
    async def _work(self, conn: Raw) -> None:
        """Read what the followers need now, if anything is due."""

    @abstractmethod
    def _on_notification(self, payload: str) -> None:
        """Handle one notification. Duplicates are possible."""

    @abstractmethod
    def _on_possible_loss(self) -> None:
        """Handle a new connection: notifications may have been lost."""

    @abstractmethod
    def _seconds_to_next(self) -> float | None:
        """Return after how many seconds there is work without a notification; None: never."""

    @abstractmethod
    async def _pause_for_more(self) -> None:
        """Pause, so that a burst of notifications is handled together."""

    @abstractmethod
    def _wake_with_failure(self, error: BaseException) -> None:
        """Wake all followers: each raises ``error``."""

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure.with_traceback(None)

    def _fail(self, error: BaseException) -> None:
        """Raise ``error`` in every current and later caller."""
        if self._failure is None:
            self._failure = error
        while self._queries:
            answer = self._queries.popleft().answer
            if not answer.done():
                answer.set_exception(self._failure)
        self._wake_with_failure(self._failure)

    async def _run(self, connection: Raw) -> None:
        """Serve until cancelled. If the connection is lost, reconnect for up to ``patience`` seconds."""
        loop = asyncio.get_running_loop()
        open_connection: Raw | None = connection
        lost: Exception | None = None
        since, pause = 0.0, _FIRST_PAUSE_SECONDS
        try:
            while True:
                try:
                    open_connection = open_connection or await self._connect()
                    await self._begin(open_connection)
                    if lost is not None:
                        self._tell(BACK)
                        lost, pause = None, _FIRST_PAUSE_SECONDS
                    while True:
                        await self._run_once(open_connection)
                except (psycopg.Error, OSError) as error:
                    if not is_unreachable(error):
                        raise
                    if lost is None:
                        lost, since = error, loop.time()
                        self._tell(AWAY)
                    elif loop.time() - since > self._patience:
                        raise lost from None
                    await _close(open_connection)
                    open_connection = None
                await asyncio.sleep(pause)
                pause = min(pause * 1.5, _LONGEST_PAUSE_SECONDS)
        except Exception as error:  # noqa: BLE001 - the callers get it
            self._fail(error)
        finally:
            await _close(open_connection)

    async def _connect(self) -> Raw:
        return await Database(self._database_url, changed_by=self._changed_by).listen(settings=self._settings)

    async def _begin(self, conn: Raw) -> None:
        conn.add_notify_handler(lambda notice: self._on_notification(notice.payload))
        if self._role is not None:
            await conn.execute("SELECT set_config('role', %s, false)", [self._role])
        await conn.execute(f"LISTEN {self._channel}".encode())
        self._on_possible_loss()

    async def _run_once(self, conn: Raw) -> None:
        """Run the waiting queries and the work that is due, then wait until there is more of either."""
        while self._queries:
            await self._answer(conn, self._queries[0])
            self._queries.popleft()
        await self._work(conn)
        await self._wait(conn)

    async def _answer(self, conn: Raw, query: _Query) -> None:
        """Answer one query, unless its caller has gone. Raise only if the connection is lost."""
        if query.answer.done():
            return
        try:
            answer = await query.run(conn)
        except Exception as error:
            if isinstance(error, psycopg.Error) and is_unreachable(error):
                raise
            if not query.answer.done():
                query.answer.set_exception(error)
        else:
            if not query.answer.done():
                query.answer.set_result(answer)

    async def _wait(self, conn: Raw) -> None:
        """Return at a notification, a query or due work. Raise OperationalError if the connection breaks."""
        loop = asyncio.get_running_loop()
        if not self._wake.is_set():
            # While the driver runs a statement, it waits for the same socket. So watch the socket only in between.
            loop.add_reader(conn.fileno(), self._wake.set)
            try:
                async with asyncio.timeout(self._seconds_to_next()):
                    await self._wake.wait()
            except TimeoutError:
                pass
            finally:
                loop.remove_reader(conn.fileno())
        self._wake.clear()
        await self._pause_for_more()
        conn.pgconn.consume_input()
        while notice := conn.pgconn.notifies():
            self._on_notification(notice.extra.decode(errors="replace"))


async def _close(connection: Raw | None) -> None:
    if connection is not None:
        with suppress(psycopg.Error, OSError):
            await connection.close()
