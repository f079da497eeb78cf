"""What operators do with the keys of the gateway's clients: make, list, revoke.

A key is shown once, when it is made. Its row is its audit: who made it and who revoked it, when and why.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

from psycopg.errors import ForeignKeyViolation, UniqueViolation

from workers.runtime.actor import Actor, acting_on
from workers.runtime.api_keys import OPERATOR_SCOPES, SCOPES, hash_of, hint_of, is_api_key, new_api_key
from workers.runtime.database import Raw
from workers.runtime.refusals import Conflict, NotFound, Problem, Refusal, quoted
from workers.runtime.store import api_keys as store
from workers.runtime.store.api_keys import ApiKeyView

__all__ = ["SCOPES", "ApiKeyView", "NewApiKey", "create_key", "list_keys", "revoke_key"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}", re.ASCII)
_LATEST = datetime(9999, 12, 31, tzinfo=UTC)


class InvalidKey(Refusal):
    """A key cannot be made like this: the message names the field."""


class NameTaken(Conflict):
    """A key in use has that name."""


class UnknownKey(NotFound):
    """No key has that name or id."""


class AlreadyRevoked(Conflict):
    """The key was revoked before."""


@dataclass(frozen=True, slots=True)
class NewApiKey:
    """A new key. ``secret`` is the key itself, which nobody can read again."""

    key: ApiKeyView
    secret: str = field(repr=False)


async def create_key(
    conn: Raw,
    actor: Actor,
    *,
    name: str,
    scopes: Sequence[str],
    acts_for: UUID | None = None,
    expires_at: datetime | None = None,
) -> NewApiKey:
    """Make a key and return it, the only time that it can be read.

    A key with a scope of operators acts for nobody; every other key acts for one user. Raise InvalidKey for a wrong
    field, NameTaken if a key in use has the name.
    """
    wanted = _checked_scopes(scopes, acts_for)
    if not _NAME.fullmatch(name):
        rule = "must be 1 to 63 letters, digits, dots, hyphens, underscores or @, and begin with a letter or digit"
        raise InvalidKey(Problem("name", rule, quoted(name)))
    await _check_expiry(conn, expires_at)
    secret = new_api_key()
    try:
        async with conn.transaction(), acting_on(conn, actor):
            key = await store.add_key(
                conn,
                name=name,
                key_hash=hash_of(secret),
                hint=hint_of(secret),
                scopes=wanted,
                acts_for=acts_for,
                expires_at=expires_at,
            )
    except UniqueViolation:
        remedy = "choose another name, or revoke that key first"
        raise NameTaken(
            Problem("name", "must not be the name of a key that is not revoked", quoted(name), remedy)
        ) from None
    except ForeignKeyViolation:
        raise InvalidKey(Problem("acts_for", "must be the id of a user in auth.users", str(acts_for))) from None
    return NewApiKey(key, secret)


async def list_keys(conn: Raw, *, ended: bool = False) -> list[ApiKeyView]:
    """Return the valid keys by name; with ``ended`` also those that expired or were revoked."""
    return await store.list_keys(conn, ended=ended)


async def revoke_key(conn: Raw, name_or_id: str, actor: Actor) -> ApiKeyView:
    """Revoke a key, for ever; every gateway refuses it within a second. Return the key as it is then.

    Raise UnknownKey or AlreadyRevoked.
    """
    keys = await store.list_keys(conn, ended=True)
    found = _select(keys, name_or_id)
    async with conn.transaction(), acting_on(conn, actor):
        done = await store.revoke_key(conn, found.id, reason=actor.change_reason)
    after = next(key for key in await store.list_keys(conn, ended=True) if key.id == found.id)
    if not done:
        raise AlreadyRevoked(
            f"key {after.name!r} was revoked at {after.revoked_at:%Y-%m-%d %H:%M:%S} by {after.revoked_by}"
        )
    return after


def _select(keys: Sequence[ApiKeyView], name_or_id: str) -> ApiKeyView:
    """Return the key with this id or name. Of several keys of a name, the one that is not revoked, else the newest."""
    wanted = name_or_id.strip()
    found = [key for key in keys if key.name == wanted or str(key.id) == wanted.lower()]
    if found:
        return min(found, key=lambda key: key.revoked_at is not None)
    raise UnknownKey(Problem("key", "must be the name or the id of a key", _shown(wanted), "`gristmill keys list`"))


def _shown(text: str) -> str:
    """Return what a refusal quotes: never a key, which somebody may have typed by mistake."""
    return f"a key that begins with {hint_of(text)}" if is_api_key(text) else quoted(text)


def _checked_scopes(scopes: Sequence[str], acts_for: UUID | None) -> list[str]:
    wanted = list(dict.fromkeys(scopes))
    if not wanted:
        raise InvalidKey(Problem("scopes", f"must name at least one of {', '.join(SCOPES)}", "nothing"))
    if unknown := [scope for scope in wanted if scope not in SCOPES]:
        raise InvalidKey(Problem("scopes", f"must be among {', '.join(SCOPES)}", quoted(unknown[0])))
    of_operators = [scope for scope in wanted if scope in OPERATOR_SCOPES]
    if acts_for is not None and of_operators:
        rule = f"must not be given with scope {of_operators[0]}, which acts for nobody and sees the rows of all users"
        raise InvalidKey(Problem("acts_for", rule, str(acts_for), "make two keys"))
    if acts_for is None and not of_operators:
        rule = f"is required unless scopes include {', '.join(OPERATOR_SCOPES)}: a key sees the rows of its user only"
        raise InvalidKey(Problem("acts_for", rule, "nothing"))
    return wanted


async def _check_expiry(conn: Raw, expires_at: datetime | None) -> None:
    """Raise InvalidKey for a time that is not in the future, by the clock of the database."""
    if expires_at is None:
        return
    if expires_at.tzinfo is None:
        raise InvalidKey(Problem("expires_at", "must have a time zone", expires_at.isoformat()))
    row = await (await conn.execute("SELECT clock_timestamp()")).fetchone()
    assert row is not None
    if not row[0] < expires_at <= _LATEST:
        raise InvalidKey(Problem("expires_at", "must be in the future", expires_at.isoformat(), "omit it for no end"))
