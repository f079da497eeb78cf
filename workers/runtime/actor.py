"""Who acts, and why: one value that every door hands to a use-case, and that the audit of the database keeps.

The database reads it from the ``gristmill.*`` settings of the transaction (``runtime.transitions``, row level
security). What is None is what the session says already, if it says anything.
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

from workers.runtime.connections import denied
from workers.runtime.database import Raw
from workers.runtime.handler.documents import Unkeepable, keepable
from workers.runtime.refusals import Refusal

_SWAP_SQL = (
    "SELECT name, coalesce(current_setting('gristmill.' || name, true), '') AS before, "
    "set_config('gristmill.' || name, value, true) FROM json_each_text(CAST({} AS json)) AS s (name, value)"
)
_SWAP = text(_SWAP_SQL.format(":said"))


class InvalidActor(Refusal, ValueError):
    """The audit cannot keep what the actor says of itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who acts and why.

    ``changed_by`` is the name in the audit. ``user_id`` is the tenant for whom row level security answers; None is
    whom the session acts for already. ``change_action`` is the word of the audit for what is done.
    """

    changed_by: str | None = None
    user_id: UUID | None = None
    change_reason: str | None = None
    change_action: str | None = None
    context: Mapping[str, Any] | None = None
    ip_address: str | None = None
    user_agent: str | None = None

    def settings(self) -> dict[str, str]:
        """Return the ``gristmill.*`` settings that say it; raise InvalidActor for what Postgres cannot keep."""
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
    """Let ``actor`` act in this block only; afterwards the transaction says again what it said before.

    Also after a refusal: the transaction may go on then. What the database does not allow the actor is raised as
    Forbidden. After that, and after any other error, the transaction must be rolled back.
    """
    settings = actor.settings()
    swapped = await session.execute(_SWAP, {"said": json.dumps(settings)}) if settings else ()
    before = json.dumps({row.name: row.before for row in swapped})
    try:
        yield
    except Refusal:
        if settings:
            with suppress(SQLAlchemyError):  # of a transaction that must be rolled back anyway
                await session.execute(_SWAP, {"said": before})
        raise
    except DBAPIError as error:
        if isinstance(error.orig, InsufficientPrivilege):
            raise denied(error.orig) from None
        raise
    if settings:
        await session.execute(_SWAP, {"said": before})


@asynccontextmanager
async def acting_on(conn: Raw, actor: Actor, **settings: str) -> AsyncIterator[None]:
    """Let ``actor`` act on a kernel connection in this block only; a transaction must be under way.

    ``settings`` are further ``gristmill.*`` settings, which count before the actor's own.
    """
    before = await _swap(conn, actor.settings() | settings)
    yield
    await _swap(conn, before)


async def _swap(conn: Raw, settings: Mapping[str, str]) -> dict[str, str]:
    cursor = await conn.execute(_SWAP_SQL.format("%(said)s"), {"said": json.dumps(settings)})
    return {name: before for name, before, _ in await cursor.fetchall()}
