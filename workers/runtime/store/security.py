"""Strict mode, the keys that sign users, and logins that are one user: rows that only the tables' owner may change."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from workers.runtime.actor_signature import LONGEST, pads
from workers.runtime.database import Raw
from workers.runtime.refusals import Refusal

_VALID = "coalesce(expires_at, 'infinity') > now()"


class SecurityRefusedError(Refusal):
    """What was asked for would protect nothing, or cannot be done; the message is one line."""


@dataclass(frozen=True, slots=True)
class KeyView:
    """A key as its owner sees it. Without ``expires_at`` it is valid until somebody ends it."""

    id: UUID
    created_at: datetime
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class RoleView:
    """A login that is one user, and whether that login exists still."""

    role: str
    user_id: UUID
    exists: bool


@dataclass(frozen=True, slots=True)
class SecurityView:
    """What the database demands of a service, and by what it verifies it."""

    strict: bool
    changed_at: datetime | None
    changed_by: str | None
    keys: list[KeyView]
    roles: list[RoleView]


async def security(conn: Raw) -> SecurityView:
    """Return whether strict mode is on, every valid key and every bound login."""
    row = await (await conn.execute("SELECT strict, changed_at, changed_by FROM runtime.security")).fetchone()
    keys = await conn.execute(
        f"SELECT id, created_at, expires_at FROM runtime.actor_keys WHERE {_VALID} ORDER BY id".encode()
    )
    roles = await conn.execute(
        "SELECT role_name, user_id, EXISTS (SELECT FROM pg_roles WHERE rolname = role_name)"
        "  FROM runtime.role_actors ORDER BY role_name"
    )
    strict, changed_at, changed_by = row or (False, None, None)
    return SecurityView(
        strict=strict,
        changed_at=changed_at,
        changed_by=changed_by,
        keys=[KeyView(*key) for key in await keys.fetchall()],
        roles=[RoleView(*role) for role in await roles.fetchall()],
    )


async def set_strict(conn: Raw, *, strict: bool, by: str) -> None:
    """Turn strict mode on or off. Without a key it is not turned on: no service could speak for anybody."""
    if strict and not (await security(conn)).keys:
        raise SecurityRefusedError("strict mode needs a key: `gristmill security new-key` makes one")
    await conn.execute(
        """INSERT INTO runtime.security (id, strict, changed_by) VALUES (1, %(strict)s, %(by)s)
           ON CONFLICT (id) DO UPDATE SET strict = excluded.strict, changed_by = excluded.changed_by, changed_at = now()
            WHERE security.strict <> excluded.strict""",
        {"strict": strict, "by": by},
    )


async def add_key(conn: Raw, key: bytes, *, old_keys_for: timedelta | None = None) -> UUID:
    """Keep the pads of ``key`` and return its id; the other keys end after ``old_keys_for``, if that is given."""
    inner, outer = pads(key)
    async with conn.transaction():
        if old_keys_for is not None:
            await conn.execute(
                "UPDATE runtime.actor_keys SET expires_at = least(expires_at, now() + %(span)s)", {"span": old_keys_for}
            )
        cursor = await conn.execute(
            "INSERT INTO runtime.actor_keys (inner_pad, outer_pad) VALUES (%(inner)s, %(outer)s) RETURNING id",
            {"inner": inner, "outer": outer},
        )
        row = await cursor.fetchone()
    assert row is not None
    added: UUID = row[0]
    return added


async def remove_key(conn: Raw, key_id: UUID) -> None:
    """End a key at once: what it signed counts no more."""
    cursor = await conn.execute("DELETE FROM runtime.actor_keys WHERE id = %(id)s", {"id": key_id})
    if not cursor.rowcount:
        raise SecurityRefusedError(f"key {key_id} does not exist: `gristmill security status` lists them")


async def sign(conn: Raw, user_id: UUID, *, span: timedelta) -> str:
    """Return a signature of ``user_id`` by the newest valid key, for so long."""
    if not timedelta(seconds=1) <= span <= LONGEST:
        raise SecurityRefusedError(
            f"a signature is valid for 1 s to {LONGEST.total_seconds():g} s, got {span.total_seconds():g} s"
        )
    cursor = await conn.execute(
        f"""SELECT e.at || '.' || encode(runtime.actor_signature(k.inner_pad, k.outer_pad, %(user)s, e.at), 'hex')
              FROM runtime.actor_keys AS k,
                   (SELECT floor(extract(epoch FROM now() + %(span)s))::bigint AS at) AS e
             WHERE {_VALID} ORDER BY k.id DESC LIMIT 1""".encode(),
        {"user": user_id, "span": span},
    )
    row = await cursor.fetchone()
    if row is None:
        raise SecurityRefusedError("there is no key to sign with: `gristmill security new-key` makes one")
    signature: str = row[0]
    return signature


async def bind_role(conn: Raw, role: str, user_id: UUID) -> None:
    """Make a login one user, whatever it says of itself. A login that sees all rows anyway is refused."""
    cursor = await conn.execute(
        """SELECT rolsuper OR rolbypassrls OR EXISTS (
                    SELECT FROM unnest(ARRAY['gristmill_worker', 'gristmill_dispatcher', 'gristmill_operator']) AS g
                     WHERE to_regrole(g) IS NOT NULL AND pg_has_role(rolname, to_regrole(g), 'MEMBER')),
                  to_regrole('gristmill_service') IS NOT NULL
                  AND pg_has_role(rolname, to_regrole('gristmill_service'), 'MEMBER')
             FROM pg_roles WHERE rolname = %(role)s AND rolcanlogin""",
        {"role": role},
    )
    row = await cursor.fetchone()
    if row is None:
        raise SecurityRefusedError(f"role {role!r} must exist and may log in")
    above, service = row
    if above:
        raise SecurityRefusedError(f"role {role!r} sees the rows of everybody: binding it would protect nothing")
    if not service:
        raise SecurityRefusedError(f"role {role!r} must be a member of gristmill_service")
    await conn.execute(
        """INSERT INTO runtime.role_actors (role_name, user_id) VALUES (%(role)s, %(user)s)
           ON CONFLICT (role_name) DO UPDATE SET user_id = excluded.user_id""",
        {"role": role, "user": user_id},
    )


async def unbind_role(conn: Raw, role: str) -> None:
    """Let a login say again whom it speaks for."""
    cursor = await conn.execute("DELETE FROM runtime.role_actors WHERE role_name = %(role)s", {"role": role})
    if not cursor.rowcount:
        raise SecurityRefusedError(f"role {role!r} is bound to nobody")
