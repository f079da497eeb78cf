"""Write many new jobs by COPY: Postgres only writes the rows, and the table's insert guard runs once for all."""

import json
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

import psycopg
from sqlalchemy import ARRAY, JSON, Connection, inspect, text
from sqlalchemy.engine.interfaces import AdaptedConnection
from sqlalchemy.types import TypeEngine

from workers.runtime.store.tables import JobTable

# How many values the random bits at the end of a UUID of version 7 can have.
_RANDOM_VALUES = 2**62

Row = tuple[Any, ...]


def new_ids(connection: Connection, count: int) -> list[UUID]:
    """Return ``count`` consecutive ids in ascending order, based on one id that the database makes."""
    first = connection.execute(text("SELECT uuidv7()")).scalar_one().int
    if first % _RANDOM_VALUES + count > _RANDOM_VALUES:
        first -= count
    return [UUID(int=first + n) for n in range(count)]


def may_give_ids(connection: Connection, t: JobTable) -> bool:
    """Tell whether this session may choose the ids of new jobs. Members of ``gristmill_service`` may not."""
    asked = text("SELECT has_column_privilege(:name, :id, 'INSERT')")
    return bool(connection.execute(asked, {"name": t.name, "id": t.column["id"].strip('"')}).scalar_one())


def can_copy(connection: Connection, t: JobTable, attributes: Sequence[str]) -> bool:
    """Tell whether COPY can replace an INSERT: a psycopg connection, no row level security, no array columns."""
    if any(isinstance(type_, ARRAY) for type_ in _types(t, attributes)):
        return False
    if not isinstance(_driver(connection), psycopg.Connection | psycopg.AsyncConnection):
        return False
    active = connection.execute(text("SELECT row_security_active(:name)"), {"name": t.name})
    return not active.scalar_one()


def copy_in(
    connection: Connection, t: JobTable, attributes: Sequence[str], ids: Sequence[UUID], rows: Sequence[Row]
) -> None:
    """Insert ``rows`` (the values of ``attributes``) with ``ids``; raise psycopg's error if a row is refused."""
    names = ", ".join(t.column[name] for name in ("id", *attributes))
    sql = f"COPY {t.name} ({names}) FROM STDIN".encode()
    content = _lines(t, attributes, ids, rows)
    driver = _driver(connection)
    if isinstance(driver, psycopg.Connection):
        with driver.cursor() as cursor, cursor.copy(sql) as copy:
            for line in content:
                copy.write_row(line)
        return

    async def write(raw: psycopg.AsyncConnection[Any]) -> None:
        async with raw.cursor() as cursor, cursor.copy(sql) as copy:
            for line in content:
                await copy.write_row(line)

    adapted = connection.connection.dbapi_connection
    assert isinstance(adapted, AdaptedConnection)
    adapted.run_async(write)


def _lines(t: JobTable, attributes: Sequence[str], ids: Sequence[UUID], rows: Sequence[Row]) -> Iterator[Row]:
    """Yield the values of each row as COPY needs them: the value of a JSON column as JSON text."""
    types = _types(t, attributes)
    documents = {place for place, type_ in enumerate(types) if isinstance(type_, JSON)}
    for id_, row in zip(ids, rows, strict=True):
        if documents:
            yield id_, *(_document(value) if place in documents else value for place, value in enumerate(row))
        else:
            yield id_, *row


def _document(value: Any) -> str | None:
    return None if value is None else json.dumps(value, allow_nan=False)


def _types(t: JobTable, attributes: Sequence[str]) -> list[TypeEngine[Any]]:
    columns = inspect(t.model).columns
    return [columns[name].type for name in attributes]


def _driver(connection: Connection) -> object:
    return connection.connection.driver_connection
