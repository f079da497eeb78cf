"""The statements on login roles of Postgres, for a login that may create roles. They use a synchronous connection."""

from typing import Any

import psycopg
from psycopg import sql

Connection = psycopg.Connection[Any]


def role_exists(connection: Connection, role: str) -> bool:
    """Tell whether the role exists."""
    return bool(_one(connection, "SELECT to_regrole(quote_ident(%s)) IS NOT NULL", role))


def has_powers(connection: Connection, role: str) -> bool:
    """Tell whether a role has rights that none of our processes needs: superuser, all rows, new roles or databases."""
    question = """SELECT rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolreplication
                    FROM pg_roles WHERE rolname = %s"""
    return bool(_one(connection, question, role))


def is_member(connection: Connection, role: str, group: str) -> bool:
    """Tell whether a role has the rights of a group."""
    return bool(_one(connection, "SELECT pg_has_role(%s, %s, 'USAGE')", role, group))


def write_login(connection: Connection, role: str, password: str, *, exists: bool) -> None:
    """Create a login, or change the password of an existing one.

    The statement holds a verifier, not the password, because the server may log statements.
    """
    verifier = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
    command = sql.SQL("ALTER" if exists else "CREATE")
    connection.execute(
        sql.SQL("{} ROLE {} LOGIN PASSWORD {}").format(command, sql.Identifier(role), sql.Literal(verifier))
    )


def join_group(connection: Connection, role: str, group: str) -> None:
    """Give a login the rights of a group."""
    connection.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(group), sql.Identifier(role)))


def _one(connection: Connection, question: str, *values: object) -> object:
    row = connection.execute(question.encode(), values).fetchone()
    return row[0] if row else None
