"""How values of a row are read: one that Python cannot hold must not keep the rows beside it from being read.

psycopg decodes while it fetches, after the statement has committed, and raises for the whole result. Every connection
of ours has these loaders instead: they return an :class:`~workers.runtime.undecodable.Undecodable`, which says why.
"""

import json
from typing import Any, cast

import psycopg
from psycopg.abc import AdaptContext, Buffer
from psycopg.abc import Loader as LoaderProtocol
from psycopg.adapt import AdaptersMap, Loader, Transformer
from psycopg.pq import Format

from workers.runtime.undecodable import Undecodable

MOST_DIGITS = 4_300  # of an integer in JSON, Python's own limit


def decoded(text: str | bytes) -> Any:
    """Return the JSON value that ``text`` is, or an Undecodable that says why Python cannot hold it."""
    try:
        return json.loads(text)
    except RecursionError:
        return Undecodable("its JSON is nested too deeply")
    except ValueError:
        return Undecodable(f"its JSON has a number of more than {MOST_DIGITS:,} digits")


class _JsonLoader(Loader):
    def load(self, data: Buffer) -> Any:
        return decoded(bytes(data))


class _JsonbBinaryLoader(_JsonLoader):
    format = Format.BINARY

    def load(self, data: Buffer) -> Any:
        return super().load(bytes(data)[1:])  # behind the format's version


class _JsonBinaryLoader(_JsonLoader):
    format = Format.BINARY


def _careful(name: str, format_: Format) -> type[Loader]:
    """Return the driver's own loader of a type of times, made careful."""
    info = psycopg.adapters.types[name]
    # Its class in C, which cannot be derived from: the driver would call past whatever overrides it.
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
                return Undecodable(KINDS[name])

    return CarefulLoader


KINDS = {
    "timestamptz": "a time must be finite and within the years 1 to 9999",
    "timestamp": "a time must be finite and within the years 1 to 9999",
    "date": "a date must be finite and within the years 1 to 9999",
    "interval": "a duration must be finite and within 999,999,999 days",
}


def careful_adapters() -> AdaptersMap:
    """Return the driver's adapters, with loaders that never raise for what a table may hold."""
    adapters = AdaptersMap(psycopg.adapters)
    for name in ("json", "jsonb"):
        adapters.register_loader(name, _JsonLoader)
    adapters.register_loader("json", _JsonBinaryLoader)
    adapters.register_loader("jsonb", _JsonbBinaryLoader)
    for name in KINDS:
        for format_ in (Format.TEXT, Format.BINARY):
            adapters.register_loader(name, _careful(name, format_))
    return adapters


ADAPTERS = careful_adapters()


_TIMESTAMPTZ = psycopg.adapters.types["timestamptz"].oid
_DRIVERS_OWN = cast("type[LoaderProtocol]", psycopg.adapters.get_loader(_TIMESTAMPTZ, Format.BINARY))


def hurried(cursor: psycopg.AsyncCursor[Any]) -> psycopg.AsyncCursor[Any]:
    """Have ``cursor`` read times by the driver's own loader, a sixth of a claim faster; for :func:`fetch_carefully`."""
    cursor.adapters.register_loader(_TIMESTAMPTZ, _DRIVERS_OWN)
    return cursor


async def fetch_carefully(cursor: psycopg.AsyncCursor[Any]) -> list[tuple[Any, ...]]:
    """Return the rows of a hurried cursor; once more, carefully, where one of them cannot be read."""
    try:
        return await cursor.fetchall()
    except psycopg.DataError:
        result = cursor.pgresult
        if result is None:
            raise
        careful = Transformer(cursor.connection)
        careful.set_pgresult(result, set_loaders=True, format=cursor.format)
        return careful.load_rows(0, result.ntuples, tuple)
