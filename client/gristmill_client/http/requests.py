"""Requests and answers of jobs: JSON that every reader reads alike, versions, keys, filters. Pure."""

import json
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID, uuid4

import httpx2
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_jsonable_python

from gristmill_client.errors import Refused, UnexpectedAnswer
from gristmill_client.http.steps import Request

T = TypeVar("T")
JSON, NDJSON = "application/json", "application/x-ndjson"
_NAMES = {"since": "from", "until": "to"}


def new_key() -> str:
    """Return an idempotency key that nobody has used: for a job that you enqueue only once.

    The call repeats itself with it after a lost connection. A second call makes a second job: to be safe against a
    crash of your own process, derive the key from what the job is about.
    """
    return f"auto-{uuid4()}"


def new_job(stage: str, payload: object, options: Mapping[str, Any], *, position: int = 0) -> dict[str, Any]:
    """Return the JSON values of a job to enqueue; options that are None are left out. Raise Refused."""
    job: dict[str, Any] = {"stage": stage, "payload": json_value(payload, "payload", position=position)}
    return job | {name: option_of(value) for name, value in options.items() if value is not None}


def option_of(value: object) -> object:
    """Return the value of an option as JSON has it. A time without an offset is UTC."""
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


def json_value(value: object, field: str, *, position: int = 0) -> Any:
    """Return ``value``, also a pydantic model, as JSON values; raise Refused for what JSON does not have."""
    try:
        if isinstance(value, BaseModel):
            value = value.model_dump(mode="json")
        found = to_jsonable_python(value, inf_nan_mode="constants")
        json.dumps(found, allow_nan=False)
    except (PydanticSerializationError, ValueError, RecursionError) as error:
        line = str(error).splitlines()[0]
        raise Refused(
            f"{field} cannot be written as JSON: {line}", field=field, rule="must be JSON", position=position
        ) from None
    return found


def encode(value: object) -> bytes:
    """Return JSON values as text."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8", "surrogatepass")  # the gateway refuses half a surrogate pair in its own words


def json_request(method: str, path: str, value: object, **options: Any) -> Request:
    """Return a request with a body of JSON."""
    headers = {"Content-Type": JSON, **options.pop("headers", {})}
    return Request(method=method, path=path, content=encode(value), headers=headers, **options)


def version_header(version: int | None) -> dict[str, str]:
    """Return ``If-Match`` for a version; nothing for None."""
    return {} if version is None else {"If-Match": f'"{version}"'}


def seconds_text(seconds: float) -> str:
    """Return the value of ``?wait=``."""
    return f"{seconds:.3f}"


def filters_of(given: Mapping[str, Any]) -> dict[str, str]:
    """Return filters as parameters; those that are None are left out."""
    return {_NAMES.get(name, name): str(option_of(value)) for name, value in given.items() if value is not None}


def read_json(response: httpx2.Response) -> Any:
    """Return the JSON of a response; raise UnexpectedAnswer."""
    try:
        return json.loads(response.content)
    except (ValueError, RecursionError):
        kind = response.headers.get("content-type", "nothing")
        raise UnexpectedAnswer(f"the answer must be JSON, got {kind}", status=response.status_code) from None


def read_text(text: str) -> Any:
    """Return the JSON of an event; raise UnexpectedAnswer."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise UnexpectedAnswer("an event of the stream must be JSON") from None


def fitted(kind: type[T], value: object, what: str) -> T:
    """Return ``value`` as ``kind``, which may be any type that pydantic reads; raise UnexpectedAnswer."""
    try:
        found: T = TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        path = ".".join(map(str, first["loc"])) or "it"
        name = getattr(kind, "__name__", str(kind))
        raise UnexpectedAnswer(f"{what} does not fit {name}: {path}: {first['msg']}") from None
    return found


def answer_as(kind: type[T], response: httpx2.Response) -> T:
    """Return the JSON of a response as ``kind``; raise UnexpectedAnswer."""
    return fitted(kind, read_json(response), "the answer")
