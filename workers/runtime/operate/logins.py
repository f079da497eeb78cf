"""Login roles of Postgres that have only the rights that one kind of process needs."""

from collections.abc import Callable, Mapping
from enum import StrEnum

import psycopg

from workers.runtime.refusals import Failed
from workers.runtime.store.logins import Connection, has_powers, is_member, join_group, role_exists, write_login

# The kinds of process, and the group role that holds their rights (migrations/sql/0007/rights.sql).
GROUPS: Mapping[str, str] = {
    kind: f"gristmill_{kind}" for kind in ("worker", "dispatcher", "gateway", "operator", "service")
}


class LoginState(StrEnum):
    """The result for one login."""

    MADE = "made"
    AS_IT_WAS = "as it was"
    UNKNOWN_PASSWORD = "left alone"  # noqa: S105 - a state, no password


def make_login(
    connection: Connection,
    kind: str,
    role: str,
    password: str,
    *,
    connects: Callable[[], bool],
    replace_password: bool = False,
) -> LoginState:
    """Make the login of one kind of process if it does not exist, and add it to its group; return the result.

    ``connects`` tells whether an existing login can connect with ``password``. If it cannot, another password is in
    use: it is replaced only with ``replace_password``. Raise Failed if the connection's own login may not make roles,
    if the login may do more than its kind needs, or if no migration has run.
    """
    group = GROUPS[kind]
    try:
        with connection.transaction():
            if not role_exists(connection, group):
                raise Failed(f"role {group} does not exist: run `gristmill migrate` as an administrator")
            exists = role_exists(connection, role)
            if exists and has_powers(connection, role):
                raise Failed(f"role {role!r} may do more than a {kind} needs: name another one in its file")
            known = exists and connects()
            if exists and not known and not replace_password:
                return LoginState.UNKNOWN_PASSWORD
            if not known:
                write_login(connection, role, password, exists=exists)
            if not known or not is_member(connection, role, group):
                join_group(connection, role, group)
            return LoginState.AS_IT_WAS if known else LoginState.MADE
    except psycopg.errors.InsufficientPrivilege:
        raise Failed(
            f"login {role!r} was not made: the login of DATABASE_URL may not make roles; run it as an administrator"
        ) from None
