"""What a Celery message asks the door ``gristmill.enqueue`` for: read when it comes, and again when it is replayed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workers.runtime.enqueue import EnqueueError
from workers.runtime.refusals import Problem, quoted

DOOR = "gristmill.enqueue"
PARAMETERS = ("stage", "payload", "idempotency_key", "priority", "due_at")
# A message of a service: a payload with a long prompt fits many times.
MOST_MESSAGE_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Request:
    """What a message asks the door for."""

    stage: str
    payload: Mapping[str, Any]
    options: Mapping[str, Any]


def read_request(arguments: Sequence[Any], keywords: Mapping[str, Any], *, message_id: object) -> Request:
    """Return what a message asks for; raise EnqueueError for what cannot be meant.

    Without a key of its own, the message's id makes a redelivered message the same job.
    """
    given = _bound(arguments, keywords)
    stage, payload = given.pop("stage"), given.pop("payload")
    if not isinstance(stage, str):
        raise EnqueueError(Problem("stage", "must be a text", quoted(stage)))
    if not isinstance(payload, Mapping):
        raise EnqueueError(Problem("payload", "must be an object", quoted(payload)))
    options = {name: value for name, value in given.items() if value is not None}
    if "idempotency_key" not in options:
        if not isinstance(message_id, str) or not message_id.strip():
            raise EnqueueError(f"a message must have an id, or an idempotency_key, got {quoted(message_id)}")
        options["idempotency_key"] = f"celery:{message_id}"
    return Request(stage, payload, options)


def _bound(arguments: Sequence[Any], keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was given by the name of its parameter."""
    if len(arguments) > len(PARAMETERS):
        raise EnqueueError(
            f"{DOOR} must have at most {len(PARAMETERS)} arguments ({', '.join(PARAMETERS)}), got {len(arguments)}"
        )
    given = dict(zip(PARAMETERS, arguments, strict=False))
    for name, value in keywords.items():
        if name not in PARAMETERS:
            raise EnqueueError(Problem("keyword", f"must be one of {', '.join(PARAMETERS)}", quoted(name)))
        if name in given:
            raise EnqueueError(f"{name} must be given once, got it by position and by keyword")
        given[name] = value
    for name in ("stage", "payload"):
        if given.get(name) is None:
            raise EnqueueError(Problem(name, "is required", "nothing"))
    return given
