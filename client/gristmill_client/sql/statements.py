"""The statements of the SQL door and what its answers mean. Imports no driver.

A statement has ``%s`` parameters and is given to every driver as text. All values are texts or None: each driver sends
those alike, and the statement casts them.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

from pydantic_core import PydanticSerializationError, to_jsonable_python

from gristmill_client.errors import NotPossible, Refused
from gristmill_client.models import Enqueued, Job, NewJob
from gristmill_client.sql.adapters import StatementFailed

# How many jobs one statement enqueues.
JOBS_PER_STATEMENT = 5_000

ENQUEUE = (
    "SELECT ordinal, CAST(id AS text), created FROM runtime.enqueue_many(%s, CAST(CAST(%s AS text) AS jsonb)) "
    "ORDER BY ordinal"
)
CANCEL = "SELECT runtime.cancel(CAST(CAST(%s AS text) AS uuid), CAST(%s AS text))"
STATUS = "SELECT CAST(row_to_json(s) AS text) FROM runtime.status(CAST(CAST(%s AS text) AS uuid)) AS s"
# The user acts before the row is looked for.
STATUS_FOR = (
    "WITH acting AS MATERIALIZED (SELECT set_config('gristmill.user_id', CAST(%s AS text), true) AS one, "
    "set_config('gristmill.user_signature', CAST(%s AS text), true) AS other) "
    "SELECT CAST(row_to_json(s) AS text) FROM acting CROSS JOIN LATERAL "
    "runtime.status(CASE WHEN acting.one IS NOT NULL AND acting.other IS NOT NULL "
    "THEN CAST(CAST(%s AS text) AS uuid) END) AS s"
)
RESULT = "SELECT CAST(runtime.result(CAST(CAST(%s AS text) AS uuid)) AS text)"
ACT_FOR = (
    "SELECT set_config('gristmill.user_id', CAST(%s AS text), true), "
    "set_config('gristmill.user_signature', CAST(%s AS text), true)"
)

_CODES = {"MI001": "invalid", "MI002": "key_taken", "MI003": "unknown_stage", "MI004": "forbidden"}
# A NUL, half a surrogate pair, or another text that Postgres does not take as JSON.
_NOT_JSON = frozenset({"22P05", "22P02", "22030"})
_UNDEFINED_FUNCTION, _NO_SCHEMA = "42883", "3F000"


def jobs_text(jobs: Sequence[NewJob | Mapping[str, Any]]) -> list[str]:
    """Return the jobs as JSON texts, one for each statement; raise Refused for a value that JSON does not have."""
    return [
        json.dumps([_job(job, place + start) for place, job in enumerate(jobs[start : start + JOBS_PER_STATEMENT])],
                   allow_nan=False)
        for start in range(0, len(jobs), JOBS_PER_STATEMENT)
    ]  # fmt: skip


def _job(job: NewJob | Mapping[str, Any], place: int) -> dict[str, Any]:
    given = job.model_dump(exclude_none=True) if isinstance(job, NewJob) else dict(job)
    found = {name: _option(value) for name, value in given.items() if name != "payload"}
    try:
        found["payload"] = to_jsonable_python(given.get("payload"), inf_nan_mode="constants")
        json.dumps(found["payload"], allow_nan=False)
    except (PydanticSerializationError, ValueError, RecursionError) as error:
        line = str(error).splitlines()[0]
        raise Refused(f"payload cannot be written as JSON: {line}", field="payload", position=place) from None
    return found


def _option(value: object) -> object:
    match value:
        case datetime():
            return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()
        case date():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case UUID():
            return str(value)
        case _:
            return value


def new_job(payload: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return one job with its options; those that are None are not given."""
    return {"payload": payload, **{name: value for name, value in options.items() if value is not None}}


def read_enqueued(rows: Sequence[Sequence[Any]]) -> list[Enqueued]:
    """Return the answer of ENQUEUE."""
    return [Enqueued(id=UUID(str(id_)), created=bool(created)) for _, id_, created in rows]


def read_job(rows: Sequence[Sequence[Any]]) -> Job | None:
    """Return the answer of STATUS; None if this session sees no such job."""
    return Job.model_validate_json(rows[0][0]) if rows else None


def read_result(rows: Sequence[Sequence[Any]]) -> dict[str, Any] | None:
    """Return the answer of RESULT."""
    text = rows[0][0] if rows else None
    return None if text is None else dict(json.loads(text))


def translated(failed: StatementFailed) -> Exception:
    """Return our error for one of a driver, else the driver's or framework's own."""
    error = failed.__cause__
    assert isinstance(error, Exception)
    start = failed.index * JOBS_PER_STATEMENT
    cause = _driver_error(error)
    state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    if state in {_UNDEFINED_FUNCTION, _NO_SCHEMA}:
        return NotPossible("this database has no SQL door of Gristmill (revision 0029), or search and rights hide it")
    if state not in _CODES and state not in _NOT_JSON:
        return error
    diag = getattr(cause, "diag", None)
    message = getattr(diag, "message_primary", None) or getattr(cause, "message", None) or str(cause).splitlines()[0]
    if state in _NOT_JSON:
        rule = f"cannot be stored: {message}"
        return Refused(f"payload {rule}", field="payload", rule=rule, position=start)
    detail = getattr(diag, "message_detail", None) or getattr(cause, "detail", None)
    parts = json.loads(detail) if detail else {}
    position = int(parts.pop("position", 0) or 0) + start
    if start:
        message = f"job {position}: {message.partition(': ')[2] if message.startswith('job ') else message}"
    known: dict[str, Any] = {name: parts.get(name) for name in ("field", "rule", "value", "remedy")}
    return Refused(message, **known, position=position, code=_CODES[state])


def _driver_error(error: BaseException) -> BaseException:
    """Return the error of the driver: SQLAlchemy keeps it in ``orig``, Django as the cause."""
    seen = error
    while getattr(seen, "sqlstate", None) is None and getattr(seen, "pgcode", None) is None:
        inner = getattr(seen, "orig", None) or seen.__cause__
        if not isinstance(inner, BaseException):
            return seen
        seen = inner
    return seen
