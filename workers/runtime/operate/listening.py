"""One connection of a process that listens, answers questions, and outlives a restart of Postgres."""

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

PATIENCE_SECONDS = 300.0
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.2, 2.0
AWAY, BACK = "Postgres cannot be reached; waiting for it to come back", "Postgres is back"


class _Question:
    """A question and who waits for its answer. A restart of Postgres may have it asked twice."""

    def __init__(self, put: Callable[[Raw], Awaitable[Any]]) -> None:
        self.put = put
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()


class Listening(ABC):
    """A connection that one task uses: it puts the questions of others one after the other, and listens in between.

    ``tell`` gets a line when Postgres goes away and one when it is back. What waits for an answer waits up to
    ``patience`` seconds for Postgres, then gets the first error. A subclass says what is done with what is heard.
    """

    def __init__(
        self,
        database_url: str,
        *,
        changed_by: str,
        tell: Callable[[str], None] = lambda _: None,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self._database_url = database_url
        self._changed_by = changed_by
        self._tell = tell
        self._patience = patience
        self._questions: deque[_Question] = deque()
        self._wake = asyncio.Event()
        self._failure: BaseException | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Connect. A server that does not answer now is told at once: nothing is followed yet."""
        self._task = asyncio.create_task(self._run(await self._connect()), name=type(self).__name__)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._fail(Failed("jobs are not followed any more: this process stops"))

    async def ask(self, question: Callable[[Raw], Awaitable[T]]) -> T:
        """Return the answer to ``question``; while Postgres is away, wait for it and ask again.

        Questions are put one at a time: a slow one holds up all who follow.
        """
        self._check()
        asked = _Question(question)
        self._questions.append(asked)
        self._wake.set()
        answer: T = await asked.answer
        return answer

    @property
    @abstractmethod
    def _channel(self) -> str:
        """The channel that is listened to."""

    @abstractmethod
    async def _work(self, conn: Raw) -> None:
        """Ask what those who follow want to know now: nothing, if nothing is due."""

    @abstractmethod
    def _hear(self, payload: str) -> None:
        """Take one notification. It may have been sent for the same reason before."""

    @abstractmethod
    def _miss(self) -> None:
        """Learn that notifications may have been lost: the connection is a new one."""

    @abstractmethod
    def _seconds_to_next(self) -> float | None:
        """Return after how many seconds there is work although nothing is heard; None: never."""

    @abstractmethod
    async def _gather(self) -> None:
        """Wait a moment for more of what comes in numbers."""

    @abstractmethod
    def _tell_failure(self, error: BaseException) -> None:
        """Wake all who follow: each raises ``error``."""

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure.with_traceback(None)

    def _fail(self, error: BaseException) -> None:
        """Let everyone who waits, or will, get ``error``."""
        if self._failure is None:
            self._failure = error
        while self._questions:
            answer = self._questions.popleft().answer
            if not answer.done():
                answer.set_exception(self._failure)
        self._tell_failure(self._failure)

    async def _run(self, connection: Raw) -> None:
        """Serve until cancelled; after a loss of the connection on a new one, as long as the patience lasts."""
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
                        await self._turn(open_connection)
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
        except Exception as error:  # noqa: BLE001 - those who wait get it
            self._fail(error)
        finally:
            await _close(open_connection)

    async def _connect(self) -> Raw:
        return await Database(self._database_url, changed_by=self._changed_by).listen()

    async def _begin(self, conn: Raw) -> None:
        conn.add_notify_handler(lambda notice: self._hear(notice.payload))
        await conn.execute(f"LISTEN {self._channel}".encode())
        self._miss()

    async def _turn(self, conn: Raw) -> None:
        """Put what is asked, do what is due, then wait until there is more of either."""
        while self._questions:
            await self._put(conn, self._questions[0])
            self._questions.popleft()
        await self._work(conn)
        await self._wait(conn)

    async def _put(self, conn: Raw, question: _Question) -> None:
        """Answer one question, unless nobody waits for it any more. Only the loss of the connection is raised."""
        if question.answer.done():
            return
        try:
            answer = await question.put(conn)
        except Exception as error:
            if isinstance(error, psycopg.Error) and is_unreachable(error):
                raise
            if not question.answer.done():
                question.answer.set_exception(error)
        else:
            if not question.answer.done():
                question.answer.set_result(answer)

    async def _wait(self, conn: Raw) -> None:
        """Return when something is heard, asked or due. Raise OperationalError when the connection breaks."""
        loop = asyncio.get_running_loop()
        if not self._wake.is_set():
            # The driver waits for the same socket while it runs a statement: it is ours only in between.
            loop.add_reader(conn.fileno(), self._wake.set)
            try:
                async with asyncio.timeout(self._seconds_to_next()):
                    await self._wake.wait()
            except TimeoutError:
                pass
            finally:
                loop.remove_reader(conn.fileno())
        self._wake.clear()
        await self._gather()
        conn.pgconn.consume_input()
        while notice := conn.pgconn.notifies():
            self._hear(notice.extra.decode(errors="replace"))


async def _close(connection: Raw | None) -> None:
    if connection is not None:
        with suppress(psycopg.Error, OSError):
            await connection.close()
