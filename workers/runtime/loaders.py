"""Loaders for the values of a row: a value that Python cannot hold must not stop the other rows from being read.

psycopg decodes while it fetches, after the statement has committed, and raises for the whole result. All our
connections use these loaders instead: they return an :class:`~workers.runtime.undecodable.Undecodable` with the reason.
"""

import json
from typing import Any, cast

import psycopg
from psycopg.abc import AdaptContext, Buffer
from psycopg.abc import Loader as LoaderProtocol
from psycopg.adapt import AdaptersMap, Loader, Transformer
from psycopg.pq import Format

from workers.runtime.undecodable import Undecodable

MAX_INTEGER_DIGITS = 4_300  # Python's limit for an integer in JSON


def decode_json(text: str | bytes) -> Any:
    """Return the value of the JSON ``text``, or an Undecodable with the reason why Python cannot hold it."""
    try:
        return json.loads(text)
    except RecursionError:
        return Undecodable("its JSON is nested too deeply")
    except ValueError:
        return Undecodable(f"its JSON has a number of more than {MAX_INTEGER_DIGITS:,} digits")


class _JsonLoader(Loader):
    def load(self, data: Buffer) -> Any:
        return decode_json(bytes(data))


class _JsonbBinaryLoader(_JsonLoader):
    format = Format.BINARY

    def load(self, data: Buffer) -> Any:
        return super().load(bytes(data)[1:])  # after the version of the format


class _JsonBinaryLoader(_JsonLoader):
    format = Format.BINARY


def _careful(name: str, format_: Format) -> type[Loader]:
    """Return a loader for a type of times that wraps the driver's own and does not raise."""
    info = psycopg.adapters.types[name]
    # Do not subclass the driver's class in C: the driver would ignore overridden methods.
    own = psycopg.adapters.get_loader(info.oid, format_)
    assert own is not None
    driver: type[LoaderProtocol] = own

    class CarefulLoader(Loader):
        format = format_

        def __init__(self, oid: int, context: AdaptContext | None = None) -> None:
            super().__init__(oid, context)
            self._load = driver(oid, context).load

        def load(self, data: Buffer) -> Any:
            try:
                return self._load(data)
            except (psycopg.DataError, ValueError, OverflowError):
                return Undecodable(UNREADABLE_REASONS[name])

    return CarefulLoader


UNREADABLE_REASONS = {
    "timestamptz": "a time must be finite and within the years 1 to 9999",
    "timestamp": "a time must be finite and within the years 1 to 9999",
    "date": "a date must be finite and within the years 1 to 9999",
    "interval": "a duration must be finite and within 999,999,999 days",
}


def careful_adapters() -> AdaptersMap:
    """Return the driver's adapters, with loaders that never raise for a value of a table."""
    adapters = AdaptersMap(psycopg.adapters)
    for name in ("json", "jsonb"):
        adapters.register_loader(name, _JsonLoader)
    adapters.register_loader("json", _JsonBinaryLoader)
    adapters.register_loader("jsonb", _JsonbBinaryLoader)
    for name in UNREADABLE_REASONS:
        for format_ in (Format.TEXT, Format.BINARY):
            adapters.register_loader(name, _careful(name, format_))
    return adapters


ADAPTERS = careful_adapters()


_TIMESTAMPTZ = psycopg.adapters.types["timestamptz"].oid
_DRIVERS_OWN = cast("type[LoaderProtocol]", psycopg.adapters.get_loader(_TIMESTAMPTZ, Format.BINARY))


def use_fast_loaders(cursor: psycopg.AsyncCursor[Any]) -> psycopg.AsyncCursor[Any]:
    """Make ``cursor`` read times with the driver's own loader, which makes a claim a sixth faster."""
    cursor.adapters.register_loader(_TIMESTAMPTZ, _DRIVERS_OWN)
    return cursor


async def fetch_carefully(cursor: psycopg.AsyncCursor[Any]) -> list[tuple[Any, ...]]:
    """Return the rows of a cursor with fast loaders; if one cannot be read, decode all with the careful loaders."""
    try:
        return await cursor.fetchall()
    except psycopg.DataError:
        result = cursor.pgresult
        if result is None:
            raise
        careful = Transformer(cursor.connection)
        careful.set_pgresult(result, set_loaders=True, format=cursor.format)
        return careful.load_rows(0, result.ntuples, tuple)
