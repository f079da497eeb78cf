"""Login roles of Postgres with no more rights than one kind of process needs."""

from collections.abc import Callable, Mapping

import psycopg

from workers.runtime.refusals import Failed
from workers.runtime.store.logins import Connection, has_powers, is_member, role_exists, write_login

# The kinds of process, and the group role that holds their rights (migrations/sql/0007/rights.sql).
GROUPS: Mapping[str, str] = {
    kind: f"gristmill_{kind}" for kind in ("worker", "dispatcher", "gateway", "operator", "service")
}


def make_login(connection: Connection, kind: str, role: str, password: str, *, connects: Callable[[], bool]) -> bool:
    """Make or mend the login of one kind of process; return whether there was anything to do.

    ``connects`` tells whether the login can connect with ``password`` already. Raise Failed where the connection's own
    login may not make roles, for a login that may do more than its kind needs, and before the first migration.
    """
    group = GROUPS[kind]
    try:
        with connection.transaction():
            if not role_exists(connection, group):
                raise Failed(f"role {group} does not exist: run `gristmill migrate` as an administrator")
            exists = role_exists(connection, role)
            if exists and has_powers(connection, role):
                raise Failed(f"role {role!r} may do more than a {kind} needs: name another one in its file")
            if exists and is_member(connection, role, group) and connects():
                return False
            write_login(connection, role, password, group, exists=exists)
            return True
    except psycopg.errors.InsufficientPrivilege:
        raise Failed(
            f"login {role!r} was not made: the login of DATABASE_URL may not make roles; run it as an administrator"
        ) from None
