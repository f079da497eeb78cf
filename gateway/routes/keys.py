"""The API keys of this gateway's clients."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field

from gateway.bodies import Route
from gateway.callers.caller import Caller
from gateway.callers.dependencies import require
from gateway.callers.sessions import actor_of, connection_of
from gateway.cursors import Listing
from gateway.parameters import Body, Flag, Id, Name, Paging, Time, Why, reason_of
from gateway.views import Page, View
from workers.runtime.operate.api_keys import SCOPES, create_key, list_keys, revoke_key

router = APIRouter(prefix="/v1/keys", tags=["operations of the system"], route_class=Route)
Admin = Annotated[Caller, Depends(require("admin"))]


class KeyFilter(Paging):
    """Which keys are listed."""

    ended: Flag = Field(False, description="also those that expired or were revoked")


class Key(View):
    """A key, without the key itself. `hint` is how it begins."""

    id: UUID
    name: str
    hint: str
    state: str = Field(description="valid, expired or revoked")
    scopes: list[str]
    acts_for: UUID | None
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None
    revoked_by: str | None
    revoke_reason: str | None


class NewKey(Body):
    """A key to make. A key with a scope of operators acts for nobody, every other one for one user."""

    name: Name = Field(max_length=63, examples=["orders"])
    scopes: list[Literal[SCOPES]] = Field(min_length=1, max_length=len(SCOPES))  # type: ignore[valid-type]
    acts_for: Id | None = Field(None, description="id of a user")
    expires_at: Time | None = None


class MadeKey(View):
    """A new key. `secret` is the key itself: nobody can read it again."""

    key: Key
    secret: str


@router.get("", operation_id="list_keys", summary="List the keys by name")
async def list_(request: Request, caller: Admin, wanted: Annotated[KeyFilter, Query()]) -> Page[Key]:
    listing = Listing(request, caller, wanted)
    async with connection_of(request, caller) as conn:
        found = [Key.model_validate(one) for one in await list_keys(conn, ended=wanted.ended)]
    return listing.cut(found, lambda one: (one.name, one.id))


@router.post("", operation_id="create_key", summary="Make a key", status_code=201)
async def create(request: Request, caller: Admin, body: NewKey) -> MadeKey:
    """The answer is the only place where the key can be read."""
    async with connection_of(request, caller) as conn:
        made = await create_key(
            conn,
            actor_of(request, caller),
            name=body.name,
            scopes=body.scopes,
            acts_for=body.acts_for,
            expires_at=body.expires_at,
        )
    return MadeKey(key=Key.model_validate(made.key), secret=made.secret)


@router.post("/{key_id}/revoke", operation_id="revoke_key", summary="Revoke a key for ever")
async def revoke(request: Request, caller: Admin, key_id: UUID, body: Why | None = None) -> Key:
    """Every gateway refuses it within a second."""
    actor = actor_of(request, caller, reason=reason_of(body))
    async with connection_of(request, caller) as conn:
        return Key.model_validate(await revoke_key(conn, str(key_id), actor))
