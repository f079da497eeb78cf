"""The statements on the keys of the gateway's clients."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from workers.runtime.database import Raw

_COLUMNS = (
    "id, name, hint, scopes, acts_for, created_at, created_by, expires_at, last_used_at, revoked_at, revoked_by, "
    "revoke_reason"
)


@dataclass(frozen=True, slots=True)
class ApiKeyView:
    """A key as operators see it. ``hint`` is how it begins; ``last_used_at`` is right to a few minutes.

    ``state`` is ``valid``, ``expired`` or ``revoked``.
    """

    id: UUID
    name: str
    hint: str
    scopes: list[str]
    acts_for: UUID | None
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None
    revoked_by: str | None
    revoke_reason: str | None
    state: str


@dataclass(frozen=True, slots=True)
class FoundKey:
    """A valid key as the gateway sees it. ``signature`` proves its user in strict mode."""

    id: UUID
    name: str
    scopes: frozenset[str]
    acts_for: UUID | None
    signature: str | None


async def add_key(
    conn: Raw,
    *,
    name: str,
    key_hash: bytes,
    hint: str,
    scopes: Sequence[str],
    acts_for: UUID | None,
    expires_at: datetime | None,
) -> ApiKeyView:
    """Store a key. Postgres raises UniqueViolation for a name in use, ForeignKeyViolation for an unknown user."""
    cursor = await conn.execute(
        f"""INSERT INTO runtime.api_keys (name, key_hash, hint, scopes, acts_for, expires_at)
            VALUES (%(name)s, %(hash)s, %(hint)s, %(scopes)s, %(acts_for)s, %(expires_at)s)
            RETURNING {_COLUMNS}, 'valid'""".encode(),
        {
            "name": name,
            "hash": key_hash,
            "hint": hint,
            "scopes": list(scopes),
            "acts_for": acts_for,
            "expires_at": expires_at,
        },
    )
    row = await cursor.fetchone()
    assert row is not None
    return ApiKeyView(*row)


async def list_keys(conn: Raw, *, ended: bool = False) -> list[ApiKeyView]:
    """Return the valid keys by name, or with ``ended`` also expired and revoked ones; of each name the newest first."""
    cursor = await conn.execute(
        f"""SELECT {_COLUMNS}, state FROM (
              SELECT *, CASE WHEN revoked_at IS NOT NULL THEN 'revoked' WHEN expires_at <= now() THEN 'expired'
                             ELSE 'valid' END AS state FROM (SELECT {_COLUMNS} FROM runtime.api_keys) AS k) AS k
             WHERE %(ended)s OR state = 'valid' ORDER BY name, created_at DESC, id""".encode(),
        {"ended": ended},
    )
    return [ApiKeyView(*row) for row in await cursor.fetchall()]


async def revoke_key(conn: Raw, key_id: UUID, *, reason: str | None) -> bool:
    """Revoke a key; return whether it existed and was not yet revoked."""
    cursor = await conn.execute(
        """UPDATE runtime.api_keys SET revoked_at = now(), revoke_reason = left(%(reason)s, 2000)
            WHERE id = %(id)s AND revoked_at IS NULL""",
        {"id": key_id, "reason": reason},
    )
    return cursor.rowcount == 1


async def authenticate_keys(conn: Raw, hashes: Sequence[bytes]) -> dict[bytes, FoundKey]:
    """Return the valid keys among ``hashes``. For the login of the gateway, and for the owner of the tables."""
    cursor = await conn.execute(
        "SELECT key_hash, id, name, scopes, acts_for, signature FROM runtime.authenticate_keys(%(hashes)s::bytea[])",
        {"hashes": list(hashes)},
    )
    return {
        bytes(key_hash): FoundKey(key_id, name, frozenset(scopes), acts_for, signature)
        for key_hash, key_id, name, scopes, acts_for, signature in await cursor.fetchall()
    }


async def read_user_roles(conn: Raw, user_ids: Sequence[UUID]) -> dict[UUID, str]:
    """Return the role of each user who exists. For the login of the gateway, and for the owner of the tables."""
    cursor = await conn.execute("SELECT id, role FROM runtime.roles_of_users(%(ids)s::uuid[])", {"ids": list(user_ids)})
    return dict(await cursor.fetchall())


async def note_key_use(conn: Raw, key_ids: Sequence[UUID]) -> None:
    """Write that these keys were used now. At most once a minute for each key; a locked row is left out."""
    await conn.execute("SELECT runtime.note_key_use(%(ids)s::uuid[])", {"ids": list(key_ids)})
