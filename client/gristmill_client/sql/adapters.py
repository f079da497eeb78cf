"""Run statements in the caller's transaction, inside a savepoint, whatever the caller's connection is.

A driver or framework is never imported here: an object of it exists only if the caller has imported it.
"""

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

from gristmill_client.errors import NotPossible

Rows = list[tuple[Any, ...]]
Values = Sequence[str | None]


class Frame(NamedTuple):
    """The statements around those of one call: before them, after them, and after a failure."""

    begin: tuple[str, ...] = ()
    end: tuple[str, ...] = ()
    undo: tuple[str, ...] = ()


SAVEPOINT = Frame(
    ("SAVEPOINT gristmill",),
    ("RELEASE SAVEPOINT gristmill",),
    ("ROLLBACK TO SAVEPOINT gristmill", "RELEASE SAVEPOINT gristmill"),
)
TRANSACTION = Frame(("BEGIN",), ("COMMIT",), ("ROLLBACK",))
# In autocommit mode a single statement is a transaction.
NOTHING = Frame()


def frame_of(many: Sequence[Values], *, in_transaction: bool) -> Frame:
    """Return what keeps the statements of one call together."""
    if in_transaction:
        return SAVEPOINT
    return TRANSACTION if len(many) > 1 else NOTHING


class StatementFailed(Exception):
    """One of several statements failed: the one with this index. The driver's error is the cause."""

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.index = index


class Runner(Protocol):
    """Runs statements for one connection of the caller."""

    def run(self, statement: str, many: Sequence[Values]) -> Rows:
        """Run the statement once with each of the values; return all rows.

        If one fails, raise StatementFailed; the transaction is as before the first.
        """
        ...


class AsyncRunner(Protocol):
    """:class:`Runner` for asyncio."""

    async def run(self, statement: str, many: Sequence[Values]) -> Rows: ...


def runner_of(connection: Any) -> Runner:
    """Return the runner of a psycopg, SQLAlchemy, Django or DB-API connection."""
    if is_a(connection, "sqlalchemy.orm", "Session", "scoped_session") or is_a(connection, "sqlalchemy", "Connection"):
        return SqlAlchemy(connection)
    if is_a(connection, "django.db.backends.base.base", "BaseDatabaseWrapper") or _is_django_proxy(connection):
        return Django(connection)
    if is_a(connection, "psycopg", "Connection"):
        return Psycopg(connection)
    if callable(getattr(connection, "cursor", None)) and not is_a(connection, "psycopg", "AsyncConnection"):
        return DbApi(connection)
    raise NotPossible(
        "connection must be of psycopg, SQLAlchemy (Session, Connection), Django or a DB-API driver, "
        f"got {type(connection).__name__}; async connections have gristmill_client.sql.aio"
    )


def async_runner_of(connection: Any) -> AsyncRunner:
    """Return the runner of a psycopg AsyncConnection or of SQLAlchemy's AsyncSession or AsyncConnection."""
    if is_a(connection, "sqlalchemy.ext.asyncio", "AsyncSession", "AsyncConnection", "async_scoped_session"):
        return AsyncSqlAlchemy(connection)
    if is_a(connection, "psycopg", "AsyncConnection"):
        return AsyncPsycopg(connection)
    raise NotPossible(
        "connection must be an AsyncConnection of psycopg, or an AsyncSession or AsyncConnection of SQLAlchemy, "
        f"got {type(connection).__name__}"
    )


def is_a(connection: object, module: str, *names: str) -> bool:
    """Tell whether ``connection`` is of one of these classes; a module that nobody imported has no objects."""
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(connection, tuple(getattr(loaded, name) for name in names))


def _is_django_proxy(connection: object) -> bool:
    return is_a(connection, "django.utils.connection", "ConnectionProxy")


class DbApi:
    """A connection of DB-API 2 with ``%s`` parameters."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def run(self, statement: str, many: Sequence[Values]) -> Rows:
        frame = frame_of(many, in_transaction=self._in_transaction())
        cursor = self._cursor()
        try:
            for one in frame.begin:
                cursor.execute(one)
            try:
                rows = self._run_each(cursor, statement, many)
            except BaseException:
                with suppress(Exception):  # of a broken connection nothing can be saved
                    for one in frame.undo:
                        cursor.execute(one)
                raise
            for one in frame.end:
                cursor.execute(one)
            return rows
        finally:
            cursor.close()

    @staticmethod
    def _run_each(cursor: Any, statement: str, many: Sequence[Values]) -> Rows:
        rows: Rows = []
        for index, values in enumerate(many):
            try:
                cursor.execute(statement, tuple(values))
                rows += plain_rows(cursor.fetchall())
            except Exception as error:
                raise StatementFailed(index) from error
        return rows

    def _cursor(self) -> Any:
        return self._connection.cursor()

    def _in_transaction(self) -> bool:
        """Tell whether a savepoint is possible: without autocommit the driver begins a transaction by itself."""
        return not getattr(self._connection, "autocommit", False)


class Psycopg(DbApi):
    """A connection of psycopg 3, whatever its row factory is."""

    def _cursor(self) -> Any:
        return self._connection.cursor(row_factory=sys.modules["psycopg.rows"].tuple_row)

    def _in_transaction(self) -> bool:
        return has_transaction(self._connection)


def has_transaction(connection: Any) -> bool:
    """Tell whether a psycopg connection is in a transaction, or begins one with the next statement."""
    idle: bool = connection.info.transaction_status == sys.modules["psycopg.pq"].TransactionStatus.IDLE
    return not (connection.autocommit and idle)


class SqlAlchemy:
    """A Session or Connection of SQLAlchemy. Pending objects of a Session are flushed before."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def run(self, statement: str, many: Sequence[Values]) -> Rows:
        text = sys.modules["sqlalchemy"].text
        if not self._is_autocommit():
            with self._connection.begin_nested():
                return self._run_each(statement, many)
        frame = frame_of(many, in_transaction=False)
        for one in frame.begin:
            self._connection.execute(text(one))
        try:
            rows = self._run_each(statement, many)
        except BaseException:
            with suppress(Exception):
                for one in frame.undo:
                    self._connection.execute(text(one))
            raise
        for one in frame.end:
            self._connection.execute(text(one))
        return rows

    def _run_each(self, statement: str, many: Sequence[Values]) -> Rows:
        places = [f"value_{n}" for n in range(len(many[0]) if many else 0)]
        bound = sys.modules["sqlalchemy"].text(statement.replace("%s", "{}").format(*(f":{name}" for name in places)))
        rows: Rows = []
        for index, values in enumerate(many):
            try:
                rows += plain_rows(self._connection.execute(bound, dict(zip(places, values, strict=True))).fetchall())
            except Exception as error:
                raise StatementFailed(index) from error
        return rows

    def _is_autocommit(self) -> bool:
        # Of a Session its connection; a Connection's own attribute is the one of the pool.
        found = self._connection.connection
        pooled = found().connection if callable(found) else found
        return bool(getattr(pooled.dbapi_connection, "autocommit", False))


class Django:
    """A connection of Django. Outside ``atomic()`` Django commits each statement; so it does here."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def run(self, statement: str, many: Sequence[Values]) -> Rows:
        atomic = sys.modules["django.db.transaction"].atomic
        with atomic(using=self._connection.alias), self._connection.cursor() as cursor:
            return DbApi._run_each(cursor, statement, [list(values) for values in many])  # noqa: SLF001 - of this file


class AsyncSqlAlchemy:
    """An AsyncSession or AsyncConnection of SQLAlchemy."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def run(self, statement: str, many: Sequence[Values]) -> Rows:
        rows: Rows = await self._connection.run_sync(lambda sync: SqlAlchemy(sync).run(statement, many))
        return rows


class AsyncPsycopg:
    """An AsyncConnection of psycopg 3, whatever its row factory is."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def run(self, statement: str, many: Sequence[Values]) -> Rows:
        frame = frame_of(many, in_transaction=has_transaction(self._connection))
        factory = sys.modules["psycopg.rows"].tuple_row
        async with self._connection.cursor(row_factory=factory) as cursor:
            for one in frame.begin:
                await cursor.execute(one)
            try:
                rows = await self._run_each(cursor, statement, many)
            except BaseException:
                with suppress(Exception):  # of a broken connection nothing can be saved
                    for one in frame.undo:
                        await cursor.execute(one)
                raise
            for one in frame.end:
                await cursor.execute(one)
            return rows

    @staticmethod
    async def _run_each(cursor: Any, statement: str, many: Sequence[Values]) -> Rows:
        rows: Rows = []
        for index, values in enumerate(many):
            try:
                await cursor.execute(statement, tuple(values))
                rows += plain_rows(await cursor.fetchall())
            except Exception as error:
                raise StatementFailed(index) from error
        return rows


def plain_rows(rows: Sequence[Any]) -> Rows:
    """Return rows as tuples, also those that a cursor of the caller returns as mappings."""
    return [tuple(row.values()) if isinstance(row, Mapping) else tuple(row) for row in rows]
