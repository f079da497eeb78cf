"""Turn any error into one line and an exit code. No traceback reaches a person.

The classes of a library's errors are looked up in the loaded modules: only a loaded module can have raised an error.
"""

import sys

from workers.runtime.refusals import Kind, Refusal

FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130


def error_line(error: BaseException) -> tuple[str, int]:
    """Return one line for ``error`` and the exit code. Secrets are masked in all errors but refusals."""
    match error:
        case Refusal():
            line, code = str(error), WRONG_USAGE if error.kind is Kind.INVALID else FAILED
        case KeyboardInterrupt():
            line, code = "interrupted", INTERRUPTED
        case _ if type(error).__module__ == "config.settings":  # config imports nothing of ours: it raises no Refusal
            line, code = str(error), WRONG_USAGE
        case _:
            from config.redaction import redact_text  # every start imports this module, few starts have an error

            line, code = redact_text(_library_line(error)), FAILED
    return " ".join(line.split()), code


def _library_line(error: BaseException) -> str:
    if line := _postgres_line(error) or _redis_line(error):
        return line
    if isinstance(error, OSError):
        return f"{error.filename or 'the system'}: {error.strerror or error}"
    return f"unexpected {type(error).__name__}: {error} (GRISTMILL_LOG_LEVEL=DEBUG shows where)"


def server_error_line(error: Exception) -> str:
    """Return the line for an error of Postgres, of Redis or of the system; raise any other error."""
    if _postgres_line(error) or _redis_line(error) or isinstance(error, OSError):
        return error_line(error)[0]
    raise error


def _postgres_line(error: BaseException) -> str | None:
    """Return the line for an error of Postgres; None for any other error."""
    if "psycopg" not in sys.modules:
        return None
    from workers.runtime.connections import refusal_of  # imports the driver, which few starts need

    refusal = refusal_of(error)
    return None if refusal is None else str(refusal)


def _redis_line(error: BaseException) -> str | None:
    redis = sys.modules.get("redis")
    if redis is None or not isinstance(error, redis.RedisError):
        return None
    if isinstance(error, (redis.ConnectionError, redis.TimeoutError)):
        return f"Redis cannot be reached: {error}"
    return f"Redis refused: {error}"
