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
            from config.redaction import redact_text  # every start imports this module, few tell an error

            line, code = redact_text(_foreign(error)), FAILED
    return " ".join(line.split()), code


def _foreign(error: BaseException) -> str:
    if told := _database(error) or _redis(error):
        return told
    if isinstance(error, OSError):
        return f"{error.filename or 'the system'}: {error.strerror or error}"
    return f"unexpected {type(error).__name__}: {error} (GRISTMILL_LOG_LEVEL=DEBUG shows where)"


def server_trouble(error: Exception) -> str:
    """Return the line for an error of Postgres, of Redis or of the system; raise any other error."""
    if _database(error) or _redis(error) or isinstance(error, OSError):
        return complaint(error)[0]
    raise error


def _database(error: BaseException) -> str | None:
    """Return the line for an error of Postgres, or None if it is none."""
    if "psycopg" not in sys.modules:
        return None
    from workers.runtime.connections import refusal_of  # imports the driver: only where one of its errors is told

    refusal = refusal_of(error)
    return None if refusal is None else str(refusal)


def _redis(error: BaseException) -> str | None:
    redis = sys.modules.get("redis")
    if redis is None or not isinstance(error, redis.RedisError):
        return None
    if isinstance(error, (redis.ConnectionError, redis.TimeoutError)):
        return f"Redis cannot be reached: {error}"
    return f"Redis refused: {error}"
