"""Strict mode (services must sign the user they act for), the signing keys, and logins bound to one user.

Only the tables' owner may change these settings: Postgres refuses every other login.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

from workers.runtime.actor import Actor, acting_on
from workers.runtime.actor_signature import MAX_SIGNATURE_AGE, new_key, pads
from workers.runtime.database import Raw
from workers.runtime.refusals import Refusal
from workers.runtime.store import security as store
from workers.runtime.store.security import KeyView, RoleView, SecurityView
from workers.runtime.store.security import read_security as show_security

__all__ = ["KeyView", "RoleView", "SecurityView", "show_security"]


class SecurityRefusedError(Refusal):
    """The change would protect nothing or is impossible; the message is one line."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """A new key and its secret. The secret is never shown again."""

    id: UUID
    secret: bytes = field(repr=False)


async def set_strict(conn: Raw, actor: Actor, *, strict: bool) -> None:
    """Turn strict mode on or off. Refuse to turn it on without a key, as no service could act for a user."""
    if strict and (await show_security(conn)).keys == []:
        raise SecurityRefusedError("strict mode needs a key: `gristmill security new-key` makes one")
    async with conn.transaction(), acting_on(conn, actor):
        await store.set_strict(conn, strict=strict, by=actor.changed_by)


async def make_key(conn: Raw, actor: Actor, *, old_keys_for: timedelta | None = None) -> NewKey:
    """Make a key that signs users; the other keys expire after ``old_keys_for``, if given."""
    secret = new_key()
    inner, outer = pads(secret)
    async with conn.transaction(), acting_on(conn, actor):
        if old_keys_for is not None:
            await store.end_keys(conn, after=old_keys_for)
        return NewKey(await store.add_key(conn, inner_pad=inner, outer_pad=outer), secret)


async def remove_key(conn: Raw, key_id: UUID, actor: Actor) -> None:
    """Delete a key: its signatures become invalid at once."""
    async with conn.transaction(), acting_on(conn, actor):
        if not await store.remove_key(conn, key_id):
            raise SecurityRefusedError(f"key {key_id} does not exist: `gristmill security status` lists them")


async def sign_user(conn: Raw, user_id: UUID, *, span: timedelta) -> str:
    """Return a signature of ``user_id`` by the newest valid key, valid for ``span``."""
    if not timedelta(seconds=1) <= span <= MAX_SIGNATURE_AGE:
        raise SecurityRefusedError(
            f"a signature is valid for 1 s to {MAX_SIGNATURE_AGE.total_seconds():g} s, got {span.total_seconds():g} s"
        )
    signature = await store.sign(conn, user_id, span=span)
    if signature is None:
        raise SecurityRefusedError("there is no key to sign with: `gristmill security new-key` makes one")
    return signature


async def bind_role(conn: Raw, role: str, user_id: UUID, actor: Actor) -> None:
    """Bind a login to one user, whatever user id it sets. Refuse a login that sees all rows anyway."""
    rights = await store.read_login_rights(conn, role)
    if rights is None:
        raise SecurityRefusedError(f"role {role!r} must exist and may log in")
    if rights.sees_all:
        raise SecurityRefusedError(f"role {role!r} sees the rows of everybody: binding it would protect nothing")
    if not rights.is_service:
        raise SecurityRefusedError(f"role {role!r} must be a member of gristmill_service")
    async with conn.transaction(), acting_on(conn, actor):
        await store.bind_role(conn, role, user_id)


async def unbind_role(conn: Raw, role: str, actor: Actor) -> None:
    """Unbind a login, so that it sets its user id itself again."""
    async with conn.transaction(), acting_on(conn, actor):
        if not await store.unbind_role(conn, role):
            raise SecurityRefusedError(f"role {role!r} is not bound to a user")
