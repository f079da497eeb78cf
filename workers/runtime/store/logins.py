"""The statements on login roles of Postgres, for who may make roles. On a connection without a loop."""

from typing import Any

import psycopg
from psycopg import sql

Connection = psycopg.Connection[Any]


def role_exists(connection: Connection, role: str) -> bool:
    """Tell whether there is such a role."""
    return bool(_one(connection, "SELECT to_regrole(quote_ident(%s)) IS NOT NULL", role))


def has_powers(connection: Connection, role: str) -> bool:
    """Tell whether a role may do what no process of ours needs: be superuser, see all rows, make roles or databases."""
    question = """SELECT rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolreplication
                    FROM pg_roles WHERE rolname = %s"""
    return bool(_one(connection, question, role))


def is_member(connection: Connection, role: str, group: str) -> bool:
    """Tell whether a role has the rights of a group."""
    return bool(_one(connection, "SELECT pg_has_role(%s, %s, 'USAGE')", role, group))


def write_login(connection: Connection, role: str, password: str, *, exists: bool) -> None:
    """Make a login, or give one another password.

    The server is told a verifier, not the password: statements may be logged.
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
