"""Turn any error into one line and an exit code. No traceback reaches a person.

A library's error class is looked up among the loaded modules: its error can only come from a module that is loaded.
"""

import sys

from workers.runtime.refusals import Kind, Refusal

FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130


def complaint(error: BaseException) -> tuple[str, int]:
    """Return one line for ``error`` and the exit code. Secrets are masked in all errors but refusals."""
    match error:
        case Refusal():
            line, code = str(error), WRONG_USAGE if error.kind is Kind.INVALID else FAILED
        case KeyboardInterrupt():
            line, code = "interrupted", INTERRUPTED
        case _ if type(error).__module__ == "config.settings":  # config imports nothing of ours, so no Refusal either
            line, code = str(error), WRONG_USAGE
        case _:
            from config.redaction import redact_text

            line, code = redact_text(_foreign(error)), FAILED
    return " ".join(line.split()), code


def _foreign(error: BaseException) -> str:
    if told := _database(error) or _redis(error):
        return told
    if isinstance(error, OSError):
        return f"{error.filename or 'the system'}: {error.strerror or error}"
    return f"unexpected {type(error).__name__}: {error} (GRISTMILL_LOG_LEVEL=DEBUG shows where)"


_NOT_MIGRATED = {"UndefinedTable", "UndefinedColumn", "UndefinedFunction", "InvalidSchemaName"}


def _database(error: BaseException) -> str | None:
    """Return the line for an error of Postgres, or None if it is none; an error of SQLAlchemy carries it inside."""
    psycopg = sys.modules.get("psycopg")
    error = getattr(error, "orig", None) or error
    if psycopg is None or not isinstance(error, psycopg.Error):
        return None
    if type(error).__name__ in _NOT_MIGRATED:
        missing = (error.diag.message_primary or str(error)).partition("\n")[0]
        return (
            f"the database is not migrated to this version; run `gristmill migrate` (Postgres: {missing}). "
            "Where it is at the newest revision, one is missing"
        )
    if error.sqlstate is None and isinstance(error, psycopg.OperationalError):
        return f"Postgres cannot be reached: {str(error).partition(chr(10))[0]}"
    return f"Postgres refused: {error.diag.message_primary or error}"


def _redis(error: BaseException) -> str | None:
    redis = sys.modules.get("redis")
    if redis is None or not isinstance(error, redis.RedisError):
        return None
    if isinstance(error, (redis.ConnectionError, redis.TimeoutError)):
        return f"Redis cannot be reached: {error}"
    return f"Redis refused: {error}"
