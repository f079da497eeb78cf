"""Who acts, and why: one value that every door passes to a use-case, and that the database's audit stores.

The database reads it from the ``gristmill.*`` settings of the transaction, for ``runtime.transitions`` and row level
security. A field that is None leaves the session's setting unchanged.
"""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg.errors import InsufficientPrivilege
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from workers.runtime.connections import forbidden_by_postgres
from workers.runtime.database import Raw
from workers.runtime.handler.documents import Unkeepable, keepable
from workers.runtime.refusals import Refusal

_SWAP_SQL = (
    "SELECT name, coalesce(current_setting('gristmill.' || name, true), '') AS before, "
    "set_config('gristmill.' || name, value, true) FROM json_each_text(CAST({} AS json)) AS s (name, value)"
)
_SWAP = text(_SWAP_SQL.format(":settings"))


class InvalidActor(Refusal, ValueError):
    """The audit cannot store a value of the actor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who acts and why.

    ``changed_by`` is the name in the audit. ``user_id`` is the tenant that row level security uses; None keeps the
    session's tenant. ``change_action`` is the audit's word for the action.
    """

    changed_by: str | None = None
    user_id: UUID | None = None
    change_reason: str | None = None
    change_action: str | None = None
    context: Mapping[str, Any] | None = None
    ip_address: str | None = None
    user_agent: str | None = None

    def settings(self) -> dict[str, str]:
        """Return its ``gristmill.*`` settings; raise InvalidActor for a value that Postgres cannot store."""
        given = {name: getattr(self, name) for name in self.__slots__}
        given = {name: value for name, value in given.items() if value is not None}
        for name, value in given.items():
            try:
                keepable(value, name=name)
            except Unkeepable as error:
                raise InvalidActor(error.said) from None
        if self.context is not None:
            given["context"] = json.dumps(self.context)
        return {name: str(value) for name, value in given.items()}


NOBODY = Actor()


@asynccontextmanager
async def acting(session: AsyncSession, actor: Actor = NOBODY) -> AsyncIterator[None]:
    """Let ``actor`` act in this block only; afterwards restore the settings of the transaction.

    They are restored after a refusal too, and the transaction may go on. If the database denies the actor something,
    raise Forbidden. After that, and after any other error, the transaction must be rolled back.
    """
    settings = actor.settings()
    swapped = await session.execute(_SWAP, {"settings": json.dumps(settings)}) if settings else ()
    before = json.dumps({row.name: row.before for row in swapped})
    try:
        yield
    except Refusal:
        if settings:
            with suppress(SQLAlchemyError):  # the transaction must be rolled back anyway
                await session.execute(_SWAP, {"settings": before})
        raise
    except DBAPIError as error:
        if isinstance(error.orig, InsufficientPrivilege):
            raise forbidden_by_postgres(error.orig) from None
        raise
    if settings:
        await session.execute(_SWAP, {"settings": before})


@asynccontextmanager
async def acting_on(conn: Raw, actor: Actor, **settings: str) -> AsyncIterator[None]:
    """Let ``actor`` act on a kernel connection in this block only; a transaction must be open.

    ``settings`` are further ``gristmill.*`` settings; they override the actor's own.
    """
    before = await _swap(conn, actor.settings() | settings)
    yield
    await _swap(conn, before)


async def _swap(conn: Raw, settings: Mapping[str, str]) -> dict[str, str]:
    cursor = await conn.execute(_SWAP_SQL.format("%(settings)s"), {"settings": json.dumps(settings)})
    return {name: before for name, before, _ in await cursor.fetchall()}
