"""The transactions in which a caller acts: its role, its tenant and its name in the audit."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.callers.caller import Caller
from gateway.resources import services_of
from workers.runtime.actor import Actor
from workers.runtime.database import Raw

_SET = "SELECT set_config(name, value, true) FROM json_each_text(CAST({} AS json)) AS s (name, value)"
_MAX_AGENT_CHARACTERS = 500


@asynccontextmanager
async def session_of(request: Request, caller: Caller) -> AsyncIterator[AsyncSession]:
    """Yield a session in one transaction, in the caller's role and name; commit if the block raises nothing."""
    async with services_of(request).database.session() as session:
        await session.execute(text(_SET.format(":settings")), {"settings": _settings(request, caller)})
        yield session


@asynccontextmanager
async def connection_of(request: Request, caller: Caller) -> AsyncIterator[Raw]:
    """Yield a connection of the kernel in one transaction, in the caller's role and name."""
    async with services_of(request).database.kernel() as conn, conn.transaction():
        await conn.execute(_SET.format("%(settings)s"), {"settings": _settings(request, caller)})
        yield conn


def actor_of(request: Request, caller: Caller, *, reason: str | None = None) -> Actor:
    """Return who acts, as the audit stores it."""
    return Actor(
        changed_by=caller.name,
        user_id=caller.user_id,
        change_reason=reason,
        context={"request_id": request.scope["state"]["request_id"]},
        ip_address=request.client.host if request.client else None,
        user_agent=request.headers.get("user-agent", "")[:_MAX_AGENT_CHARACTERS] or None,
    )


def _settings(request: Request, caller: Caller) -> str:
    own = {f"gristmill.{name}": value for name, value in actor_of(request, caller).settings().items()}
    return json.dumps({"role": caller.role} | own)
