"""Open connections to Postgres that mean the same wherever they are opened: every connection of ours begins here.

What the driver and our statements rely on is said with each connection. So neither the environment (``PGOPTIONS``,
``PGCLIENTENCODING``, ``PGDATESTYLE``, ``PGTZ``), the ``options`` of the URL, ``ALTER ROLE | DATABASE … SET`` nor the
server's configuration file changes what a session means. Light: no SQLAlchemy.
"""

import re
from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from workers.runtime.loaders import ADAPTERS
from workers.runtime.refusals import Failed, Forbidden, Refusal, UnavailableServer

CONNECT_SECONDS = 5
# A peer that vanished without a word is noticed within about 15 s instead of the system's two hours.
KEEPALIVE: dict[str, Any] = {
    "connect_timeout": CONNECT_SECONDS,
    "keepalives_idle": 5,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}

PINS: Mapping[str, str] = {
    # How values travel: the driver reads and writes them in these forms, and in no other.
    "client_encoding": "UTF8",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    # What a statement says.
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
    # How long it may take: who wants a bound says so behind these.
    "statement_timeout": "0",
    "lock_timeout": "0",
    "transaction_timeout": "0",
    "idle_session_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    # Who acts, why and from where: nobody, unless the session says so itself.
    "gristmill.user_id": "",
    "gristmill.user_signature": "",
    "gristmill.changed_by": "",
    "gristmill.change_reason": "",
    "gristmill.change_action": "",
    "gristmill.context": "",
    "gristmill.ip_address": "",
    "gristmill.user_agent": "",
}
# Those of them that Postgres tells every client of: libpq sends some by itself, from its environment, and behind ours.
_TOLD = ("client_encoding", "DateStyle", "IntervalStyle", "TimeZone", "standard_conforming_strings", "search_path")
# Only a superuser may set it, so no connection can ask for it.
_TRIGGERS = "SELECT current_setting('session_replication_role')"
WITHOUT_TRIGGERS = (
    "session_replication_role must be 'origin', got {found!r}: without its triggers Postgres keeps no history and "
    "refuses no wrong transition; undo it with ALTER ROLE | DATABASE … RESET session_replication_role"
)
ENCODING = "the database's encoding must be UTF8, got {found}: create it with ENCODING 'UTF8'"


OLDEST_POSTGRES = 18
# What a server says that does not know one of the pins: an older one.
_UNKNOWN_SETTING = "unrecognized configuration parameter"


class TooOldServerError(psycopg.OperationalError):
    """The server of Postgres is older than this release needs."""

    def __init__(self, server_version: int) -> None:
        major, minor = divmod(server_version, 10_000)
        super().__init__(f"PostgreSQL {OLDEST_POSTGRES} or newer is needed, this one is {major}.{minor}")


def startup(url_options: str | None = None, settings: str = "") -> dict[str, Any]:
    """Return how the driver is told to connect: pinned, with careful loaders; ``settings`` (``-c …``) come last.

    ``url_options`` are what the URL asks for by itself: they come first, so that they cannot undo a pin.
    """
    pins = " ".join(f"-c {name}={_escaped(value)}" for name, value in PINS.items())
    return {
        "client_encoding": PINS["client_encoding"],  # the environment's counts unless this is given
        "options": " ".join(filter(None, (url_options, pins, settings))),
        "context": ADAPTERS,
    }


def _escaped(value: str) -> str:
    """Return ``value`` as Postgres reads it on a command line."""
    return value.replace("\\", "\\\\").replace(" ", "\\ ")


def named(changed_by: str) -> str:
    """Return the setting that signs what a session changes."""
    return f"-c gristmill.changed_by={_escaped(changed_by)}"


def connect(url: str, *, autocommit: bool = False, settings: str = "", **options: Any) -> psycopg.Connection[Any]:
    """Open a connection, pinned."""
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
    """Open a connection for a loop, pinned."""
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
    """Finish a new connection of SQLAlchemy's as :func:`connect` does; an engine's listener for ``connect``."""
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
    """Return the statements that set what libpq's environment said against our pins."""
    told = {name: driver.info.parameter_status(name) for name in _TOLD}
    return [set_statement(name) for name, value in told.items() if value is not None and value != PINS[name]]


def set_statement(name: str) -> bytes:
    """Return the statement that pins ``name`` in a session that somebody else opened."""
    quoted = PINS[name].replace("'", "''")
    return f"SELECT set_config('{name}', '{quoted}', false)".encode()


def refuse_old_server(error: psycopg.OperationalError, conninfo: str) -> None:
    """Raise TooOldServerError if a server refused our settings because it is too old to know them.

    It refuses before it says its version, so that it is asked once more, without settings.
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
    """Raise TooOldServerError for a server on which this release does not run."""
    if (version := driver.info.server_version) < OLDEST_POSTGRES * 10_000:
        raise TooOldServerError(version)


def check_encoding(driver: "psycopg.Connection[Any] | psycopg.AsyncConnection[Any]") -> None:
    """Raise OperationalError for a database that cannot store every text."""
    if (found := driver.info.parameter_status("server_encoding")) not in {None, "UTF8"}:
        raise psycopg.OperationalError(ENCODING.format(found=found))


def check_triggers(row: Any) -> None:
    """Raise OperationalError for a session in which no trigger fires."""
    if row and row[0] != "origin":
        raise psycopg.OperationalError(WITHOUT_TRIGGERS.format(found=row[0]))


def plain_url(url: str) -> str:
    """Return ``url`` as libpq reads it, whatever driver it names."""
    return re.sub(r"^postgres(ql)?(\+\w+)?://", "postgresql://", url)


# A table, column, function or schema that a statement names does not exist.
_NOT_MIGRATED = frozenset({"42P01", "42703", "42883", "3F000"})


_NOT_ALLOWED = "42501"


def denied(error: psycopg.Error) -> Forbidden:
    """Return what it means that Postgres does not allow this login something, and who may do it."""
    told = error.diag.message_primary or str(error)
    if "row-level security" in told:
        remedy = "a service says whose rows it writes with SET LOCAL gristmill.user_id; an operator's login needs none"
    else:
        remedy = "use a login that may, such as the operator's, or the owner's for `security` and `migrate`"
    return Forbidden(f"Postgres refused: {told}", remedy=f"{remedy} (docs/security.md)")


def refusal_of(error: BaseException) -> Refusal | None:
    """Return what an error of Postgres means to a person; None for any other. SQLAlchemy's errors carry one inside.

    Its text may hold secrets of the server's address: a door masks them.
    """
    error = getattr(error, "orig", None) or error
    if not isinstance(error, psycopg.Error):
        return None
    if isinstance(error, TooOldServerError):
        return Failed(str(error))
    told = error.diag.message_primary or str(error)
    if error.sqlstate in _NOT_MIGRATED:
        return Failed(
            "the database is not migrated to this version; run `gristmill migrate` "
            f"(Postgres: {told.partition(chr(10))[0]}). Where it is at the newest revision, one is missing"
        )
    if error.sqlstate == _NOT_ALLOWED:
        return denied(error)
    if not isinstance(error, psycopg.OperationalError):
        return Failed(f"Postgres refused: {told}")
    if error.sqlstate is None:
        return UnavailableServer(f"Postgres cannot be reached: {str(error).partition(chr(10))[0]}")
    return UnavailableServer(f"Postgres refused: {told}")


def _options_in(conninfo: str) -> str | None:
    found = conninfo_to_dict(conninfo).get("options")
    return str(found) if found else None
