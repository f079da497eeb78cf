"""Say any error as one line with the exit code it deserves. Nothing that reaches a person is a traceback.

Runs on the way out only, so that looking up the libraries' error classes here costs nobody anything: an error of a
library can only come from one that is loaded already.
"""

import sys

from cli.errors import CommandError

_ARGUMENT = 2


def complaint(error: BaseException) -> tuple[str, int]:
    """Return one line for ``error`` and the exit code. Ours are written for people; of others secrets are masked."""
    name = type(error).__name__
    match error:
        case CommandError():
            line, code = str(error), error.exit_code
        case KeyboardInterrupt():
            line, code = "interrupted", 130
        case _ if name in _OURS:
            line, code = str(error), _OURS[name]
        case _:
            from config.redaction import redact_text

            line, code = redact_text(_foreign(error)), 1
    return " ".join(line.split()), code


def _foreign(error: BaseException) -> str:
    if told := _database(error) or _redis(error):
        return told
    if isinstance(error, OSError):
        return f"{error.filename or 'the system'}: {error.strerror or error}"
    return f"unexpected {type(error).__name__}: {error} (GRISTMILL_LOG_LEVEL=DEBUG shows where)"


# One-line errors of other rooms, by name: importing their rooms to name their classes would cost every start a second.
_OURS = {
    "SettingsError": _ARGUMENT,
    "UnknownStageError": _ARGUMENT,
    "UnknownStateError": _ARGUMENT,
    "BrokenHandlers": 1,
    "EnqueueError": _ARGUMENT,
    "InvalidChange": _ARGUMENT,
    "Conflict": 1,
    "IllegalTransition": 1,
    "UnknownAssessment": 1,
    "OperationsError": _ARGUMENT,
    "RatingError": _ARGUMENT,
    "Unreadable": 1,
    "UnratableRecord": 1,
    "UnknownProject": 1,
    "UnknownRecord": 1,
    "UnknownWindow": 1,
    "ScheduleError": _ARGUMENT,
    "SecurityRefusedError": _ARGUMENT,
    "UnknownSchedule": 1,
    "ScheduleExists": 1,
    "UnknownDeadMessage": 1,
    "EmbeddedError": 1,
    "SupervisionError": 1,
    "FlowerError": 1,
}
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
