"""The statements on strict mode, on keys that sign users, and on logins that are bound to one user."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from workers.runtime.database import Raw

_VALID = "coalesce(expires_at, 'infinity') > now()"


@dataclass(frozen=True, slots=True)
class KeyView:
    """A key as its owner sees it. Without ``expires_at`` it is valid until somebody removes it or sets its end."""

    id: UUID
    created_at: datetime
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class RoleView:
    """A login that is bound to one user, and whether the login still exists."""

    role: str
    user_id: UUID
    exists: bool


@dataclass(frozen=True, slots=True)
class SecurityView:
    """Whether a service must sign its users, the keys that verify signatures, and the bound logins.

    ``keys`` is None if this login may not see them. Only the owner of the tables may.
    """

    strict: bool
    changed_at: datetime | None
    changed_by: str | None
    keys: list[KeyView] | None
    roles: list[RoleView]


async def read_security(conn: Raw) -> SecurityView:
    """Return whether strict mode is on, every valid key and every bound login."""
    row = await (await conn.execute("SELECT strict, changed_at, changed_by FROM runtime.security")).fetchone()
    roles = await conn.execute(
        "SELECT role_name, user_id, EXISTS (SELECT FROM pg_roles WHERE rolname = role_name)"
        "  FROM runtime.role_actors ORDER BY role_name"
    )
    strict, changed_at, changed_by = row or (False, None, None)
    return SecurityView(
        strict=strict,
        changed_at=changed_at,
        changed_by=changed_by,
        keys=await _keys(conn),
        roles=[RoleView(*role) for role in await roles.fetchall()],
    )


async def _keys(conn: Raw) -> list[KeyView] | None:
    permission = await (await conn.execute("SELECT has_table_privilege('runtime.actor_keys', 'SELECT')")).fetchone()
    if not (permission and permission[0]):
        return None
    keys = await conn.execute(
        f"SELECT id, created_at, expires_at FROM runtime.actor_keys WHERE {_VALID} ORDER BY id".encode()
    )
    return [KeyView(*key) for key in await keys.fetchall()]


async def set_strict(conn: Raw, *, strict: bool, by: str | None) -> None:
    """Turn strict mode on or off, and write who did it."""
    await conn.execute(
        """INSERT INTO runtime.security (id, strict, changed_by) VALUES (1, %(strict)s, coalesce(%(by)s, session_user))
           ON CONFLICT (id) DO UPDATE SET strict = excluded.strict, changed_by = excluded.changed_by, changed_at = now()
            WHERE security.strict <> excluded.strict""",
        {"strict": strict, "by": by},
    )


async def end_keys(conn: Raw, *, after: timedelta) -> None:
    """Let every key expire after ``after``; a key that expires sooner stays as it is."""
    await conn.execute(
        "UPDATE runtime.actor_keys SET expires_at = least(expires_at, now() + %(span)s)", {"span": after}
    )


async def add_key(conn: Raw, *, inner_pad: bytes, outer_pad: bytes) -> UUID:
    """Save the pads of a key; return its id."""
    cursor = await conn.execute(
        "INSERT INTO runtime.actor_keys (inner_pad, outer_pad) VALUES (%(inner)s, %(outer)s) RETURNING id",
        {"inner": inner_pad, "outer": outer_pad},
    )
    row = await cursor.fetchone()
    assert row is not None
    added: UUID = row[0]
    return added


async def remove_key(conn: Raw, key_id: UUID) -> bool:
    """Delete a key; return whether it existed."""
    cursor = await conn.execute("DELETE FROM runtime.actor_keys WHERE id = %(id)s", {"id": key_id})
    return cursor.rowcount == 1


async def sign(conn: Raw, user_id: UUID, *, span: timedelta) -> str | None:
    """Return a signature of ``user_id`` by the newest valid key, valid for ``span``; None if there is no key."""
    cursor = await conn.execute(
        f"""SELECT e.at || '.' || encode(runtime.actor_signature(k.inner_pad, k.outer_pad, %(user)s, e.at), 'hex')
              FROM runtime.actor_keys AS k,
                   (SELECT floor(extract(epoch FROM now() + %(span)s))::bigint AS at) AS e
             WHERE {_VALID} ORDER BY k.id DESC LIMIT 1""".encode(),
        {"user": user_id, "span": span},
    )
    row = await cursor.fetchone()
    return row[0] if row else None


@dataclass(frozen=True, slots=True)
class LoginRights:
    """Whether a login sees the rows of all users, and whether it is a service."""

    sees_all: bool
    is_service: bool


async def read_login_rights(conn: Raw, role: str) -> LoginRights | None:
    """Return the rights of a login; None if no login has that name."""
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
    return LoginRights(*row) if row else None


async def bind_role(conn: Raw, role: str, user_id: UUID) -> None:
    """Bind a login to one user."""
    await conn.execute(
        """INSERT INTO runtime.role_actors (role_name, user_id) VALUES (%(role)s, %(user)s)
           ON CONFLICT (role_name) DO UPDATE SET user_id = excluded.user_id""",
        {"role": role, "user": user_id},
    )


async def unbind_role(conn: Raw, role: str) -> bool:
    """Remove the binding of a login, so that it names its users itself again; return whether it was bound."""
    cursor = await conn.execute("DELETE FROM runtime.role_actors WHERE role_name = %(role)s", {"role": role})
    return cursor.rowcount == 1
