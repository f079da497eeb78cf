"""Open all our connections to Postgres, with the same settings everywhere.

Each connection pins the settings that the driver and our statements rely on. So a session does not depend on the
environment (``PGOPTIONS``, ``PGCLIENTENCODING``, ``PGDATESTYLE``, ``PGTZ``), the ``options`` of the URL, ``ALTER ROLE |
DATABASE … SET`` or the server's configuration file. Imports no SQLAlchemy, to start fast.
"""

import re
from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from workers.runtime.loaders import ADAPTERS
from workers.runtime.refusals import Failed, Forbidden, Refusal, UnavailableServer

CONNECT_SECONDS = 5
# A peer that is gone without closing the connection is noticed within about 15 s, not the system's two hours.
KEEPALIVE: dict[str, Any] = {
    "connect_timeout": CONNECT_SECONDS,
    "keepalives_idle": 5,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}

PINS: Mapping[str, str] = {
    # The formats in which the driver reads and writes values.
    "client_encoding": "UTF8",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    # The meaning of a statement.
    "standard_conforming_strings": "on",
    "search_path": "public",
    "transform_null_equals": "off",
    "array_nulls": "on",
    "quote_all_identifiers": "off",
    "row_security": "on",
    "gin_fuzzy_search_limit": "0",
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    "default_transaction_read_only": "off",
    "exit_on_error": "off",
    # Timeouts: a caller that wants one sets it after these.
    "statement_timeout": "0",
    "lock_timeout": "0",
    "transaction_timeout": "0",
    "idle_session_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    # Who acts, why and from where: nobody, unless the session sets it.
    "gristmill.user_id": "",
    "gristmill.user_signature": "",
    "gristmill.changed_by": "",
    "gristmill.change_reason": "",
    "gristmill.change_action": "",
    "gristmill.context": "",
    "gristmill.ip_address": "",
    "gristmill.user_agent": "",
}
# Postgres reports the values of these pins to every client. libpq sets some of them from its environment, after ours.
_REPORTED = ("client_encoding", "DateStyle", "IntervalStyle", "TimeZone", "standard_conforming_strings", "search_path")
# Only a superuser may set it, so no connection can ask for it.
_TRIGGERS = "SELECT current_setting('session_replication_role')"
WITHOUT_TRIGGERS = (
    "session_replication_role must be 'origin', got {found!r}: without its triggers Postgres keeps no history and "
    "refuses no wrong transition; undo it with ALTER ROLE | DATABASE … RESET session_replication_role"
)
ENCODING = "the database's encoding must be UTF8, got {found}: create it with ENCODING 'UTF8'"


OLDEST_POSTGRES = 18
# An older server answers this if it does not know one of the pins.
_UNKNOWN_SETTING = "unrecognized configuration parameter"


class TooOldServerError(psycopg.OperationalError):
    """The server of Postgres is older than this release needs."""

    def __init__(self, server_version: int) -> None:
        major, minor = divmod(server_version, 10_000)
        super().__init__(f"PostgreSQL {OLDEST_POSTGRES} or newer is needed, this one is {major}.{minor}")


def startup(url_options: str | None = None, settings: str = "") -> dict[str, Any]:
    """Return the driver's arguments for a connection: pins, careful loaders, and ``settings`` (``-c …``) last.

    ``url_options`` are the options of the URL: they come first, so that they cannot undo a pin.
    """
    pins = " ".join(f"-c {name}={_escaped(value)}" for name, value in PINS.items())
    return {
        "client_encoding": PINS["client_encoding"],  # without this, the environment's value is used
        "options": " ".join(filter(None, (url_options, pins, settings))),
        "context": ADAPTERS,
    }


def _escaped(value: str) -> str:
    """Return ``value`` as Postgres reads it on a command line."""
    return value.replace("\\", "\\\\").replace(" ", "\\ ")


def changed_by_setting(changed_by: str) -> str:
    """Return the setting that names the session in the audit of its changes."""
    return f"-c gristmill.changed_by={_escaped(changed_by)}"


def connect(url: str, *, autocommit: bool = False, settings: str = "", **options: Any) -> psycopg.Connection[Any]:
    """Open a connection with the pinned settings."""
    conninfo = plain_url(url)
    arguments = KEEPALIVE | startup(_options_in(conninfo), settings) | options
    try:
        connection: psycopg.Connection[Any] = psycopg.Connection.connect(conninfo, autocommit=autocommit, **arguments)
    except psycopg.OperationalError as error:
        refuse_old_server(error, conninfo)
        raise
    try:
        check_version(connection)
        check_encoding(connection)
        for statement in repairs(connection):
            connection.execute(statement)
        row = connection.execute(_TRIGGERS).fetchone()
        check_triggers(row)
        if not autocommit:
            connection.commit()
    except BaseException:
        connection.close()
        raise
    return connection


async def connect_async(
    url: str, *, autocommit: bool = False, settings: str = "", **options: Any
) -> psycopg.AsyncConnection[Any]:
    """Open an asyncio connection with the pinned settings."""
    conninfo = plain_url(url)
    arguments = KEEPALIVE | startup(_options_in(conninfo), settings) | options
    try:
        connection: psycopg.AsyncConnection[Any] = await psycopg.AsyncConnection.connect(
            conninfo, autocommit=autocommit, **arguments
        )
    except psycopg.OperationalError as error:
        refuse_old_server(error, conninfo)
        raise
    try:
        check_version(connection)
        check_encoding(connection)
        for statement in repairs(connection):
            await connection.execute(statement)
        row = await (await connection.execute(_TRIGGERS)).fetchone()
        check_triggers(row)
        if not autocommit:
            await connection.commit()
    except BaseException:
        await connection.close()
        raise
    return connection


def prepare(dbapi_connection: Any, _record: object = None) -> None:
    """Prepare a new connection of SQLAlchemy like :func:`connect`; an engine's listener for ``connect``."""
    driver = getattr(dbapi_connection, "driver_connection", dbapi_connection)
    check_version(driver)
    check_encoding(driver)
    cursor = dbapi_connection.cursor()
    for statement in repairs(driver):
        cursor.execute(statement)
    cursor.execute(_TRIGGERS)
    check_triggers(cursor.fetchone())
    cursor.close()
    dbapi_connection.commit()


def repairs(driver: "psycopg.Connection[Any] | psycopg.AsyncConnection[Any]") -> list[bytes]:
    """Return the statements that set the pins again that libpq's environment has overridden."""
    reported = {name: driver.info.parameter_status(name) for name in _REPORTED}
    return [set_statement(name) for name, value in reported.items() if value is not None and value != PINS[name]]


def set_statement(name: str) -> bytes:
    """Return the statement that pins ``name`` in an open session."""
    quoted = PINS[name].replace("'", "''")
    return f"SELECT set_config('{name}', '{quoted}', false)".encode()


def refuse_old_server(error: psycopg.OperationalError, conninfo: str) -> None:
    """Raise TooOldServerError if a server refused our settings because it is too old to know them.

    It refuses before it sends its version, so connect once more without settings.
    """
    if _UNKNOWN_SETTING not in str(error):
        return
    try:
        with psycopg.Connection.connect(conninfo, connect_timeout=CONNECT_SECONDS, options="") as connection:
            version = connection.info.server_version
    except psycopg.Error:
        return
    if version < OLDEST_POSTGRES * 10_000:
        raise TooOldServerError(version) from None


def check_version(driver: "psycopg.Connection[Any] | psycopg.AsyncConnection[Any]") -> None:
    """Raise TooOldServerError if the server is too old for this release."""
    if (version := driver.info.server_version) < OLDEST_POSTGRES * 10_000:
        raise TooOldServerError(version)


def check_encoding(driver: "psycopg.Connection[Any] | psycopg.AsyncConnection[Any]") -> None:
    """Raise OperationalError if the database cannot store every text."""
    if (found := driver.info.parameter_status("server_encoding")) not in {None, "UTF8"}:
        raise psycopg.OperationalError(ENCODING.format(found=found))


def check_triggers(row: Any) -> None:
    """Raise OperationalError if no trigger fires in the session."""
    if row and row[0] != "origin":
        raise psycopg.OperationalError(WITHOUT_TRIGGERS.format(found=row[0]))


def plain_url(url: str) -> str:
    """Return ``url`` without the name of a driver, as libpq reads it."""
    return re.sub(r"^postgres(ql)?(\+\w+)?://", "postgresql://", url)


# A table, column, function or schema that a statement names does not exist.
_NOT_MIGRATED = frozenset({"42P01", "42703", "42883", "3F000"})


_NOT_ALLOWED = "42501"


def forbidden_by_postgres(error: psycopg.Error) -> Forbidden:
    """Return the refusal of a statement that this login may not execute, with the login that may."""
    message = error.diag.message_primary or str(error)
    if "row-level security" in message:
        remedy = "a service names the rows' owner with SET LOCAL gristmill.user_id; an operator's login needs no owner"
    else:
        remedy = "use a login that may, for example the operator's, or the owner's for `security` and `migrate`"
    return Forbidden(f"Postgres refused: {message}", remedy=f"{remedy} (docs/security.md)")


def refusal_of(error: BaseException) -> Refusal | None:
    """Return the refusal for an error of Postgres, also inside one of SQLAlchemy; None for any other error.

    The text may hold secrets of the server's address: the doors mask them.
    """
    error = getattr(error, "orig", None) or error
    if not isinstance(error, psycopg.Error):
        return None
    if isinstance(error, TooOldServerError):
        return Failed(str(error))
    message = error.diag.message_primary or str(error)
    if error.sqlstate in _NOT_MIGRATED:
        return Failed(
            "the database is not migrated to this version; run `gristmill migrate` "
            f"(Postgres: {message.partition(chr(10))[0]}). If it has the newest revision, something of it is missing"
        )
    if error.sqlstate == _NOT_ALLOWED:
        return forbidden_by_postgres(error)
    if not isinstance(error, psycopg.OperationalError):
        return Failed(f"Postgres refused: {message}")
    if error.sqlstate is None:
        return UnavailableServer(f"Postgres cannot be reached: {str(error).partition(chr(10))[0]}")
    return UnavailableServer(f"Postgres refused: {message}")


def _options_in(conninfo: str) -> str | None:
    found = conninfo_to_dict(conninfo).get("options")
    return str(found) if found else None
