"""The transactions in which a caller acts: its role, its tenant and its name in the audit.

The gateway's login has no right on the data. It becomes the caller's role inside each transaction, so that the policies
of the database hold even for a route that forgets its check.
"""

import ipaddress
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Protocol, runtime_checkable

import psycopg
from fastapi import Request
from psycopg.errors import InvalidAuthorizationSpecification, ReadOnlySqlTransaction
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.callers.caller import Caller
from gateway.resources import services_of
from workers.runtime.actor import Actor
from workers.runtime.api_keys import only_reads
from workers.runtime.database import Raw, raw_of
from workers.runtime.refusals import Failed, Forbidden, printable

_SET = "SELECT set_config(name, value, true) FROM json_each_text(%(settings)s::json) AS s (name, value)"
_MAX_AGENT_CHARACTERS = 500


@runtime_checkable
class SignsCallers(Protocol):
    """What proves a caller's user to the database in strict mode."""

    async def signature_of(self, caller: Caller) -> str:
        """Return the signature, or ""; raise Unauthenticated if the caller's key is no longer valid."""


@asynccontextmanager
async def session_of(request: Request, caller: Caller) -> AsyncIterator[AsyncSession]:
    """Yield a session in one transaction, in the caller's role and name; commit if the block raises nothing.

    Raise Unauthenticated if the caller's key was revoked since the request began.
    """
    settings = await settings_of(request, caller)
    with _refusals(caller):
        async with services_of(request).database.session() as session:
            await (await raw_of(session)).execute(_SET, {"settings": settings})
            yield session


@asynccontextmanager
async def connection_of(request: Request, caller: Caller) -> AsyncIterator[Raw]:
    """Yield a connection in one transaction, in the caller's role and name; commit if the block raises nothing.

    Its planner is not pinned as the kernel's is. ``conn.transaction()`` of a use-case becomes a savepoint. Raise
    Unauthenticated if the caller's key was revoked since the request began.
    """
    settings = await settings_of(request, caller)
    with _refusals(caller):
        async with services_of(request).database.transaction() as conn:
            await conn.execute(_SET, {"settings": settings})
            yield conn


def actor_of(request: Request, caller: Caller, *, reason: str | None = None) -> Actor:
    """Return who acts, as the audit stores it."""
    return Actor(
        changed_by=caller.name,
        user_id=caller.user_id,
        change_reason=reason,
        context={"request_id": request.scope["state"]["request_id"]},
        ip_address=_address_of(request),
        user_agent=printable(request.headers.get("user-agent", ""))[:_MAX_AGENT_CHARACTERS] or None,
    )


async def settings_of(request: Request, caller: Caller, **more: str) -> str:
    """Return the settings of a transaction of ``caller`` as JSON, with ``more`` settings.

    If none of its scopes allows writing, the transaction can only read.
    """
    said = actor_of(request, caller).settings()
    said.setdefault("user_id", "")
    authenticator = services_of(request).authenticator
    if isinstance(authenticator, SignsCallers):
        said["user_signature"] = await authenticator.signature_of(caller)
    own = {f"gristmill.{name}": value for name, value in said.items()}
    if only_reads(caller.scopes):
        own["transaction_read_only"] = "on"
    return json.dumps({"role": caller.role} | own | more)


def _address_of(request: Request) -> str | None:
    """Return the address of the client, if the audit can store it; a Unix socket has none."""
    try:
        return str(ipaddress.ip_address((request.client.host if request.client else "").partition("%")[0]))
    except ValueError:
        return None


@contextmanager
def _refusals(caller: Caller) -> Iterator[None]:
    """Raise a refusal for what the transaction of this caller does not allow."""
    try:
        yield
    except (DBAPIError, psycopg.Error) as error:
        match getattr(error, "orig", None) or error:
            case ReadOnlySqlTransaction() if only_reads(caller.scopes):
                raise Forbidden("the scopes of the caller allow reading only") from None
            case InvalidAuthorizationSpecification():
                raise Failed(
                    "strict mode is on and the gateway cannot prove its caller's user",
                    remedy="an operator sets GRISTMILL_GATEWAY__ACTOR_KEY to a key of `gristmill security new-key`",
                ) from None
        raise
