"""Read and execute the requests of Celery messages to the door ``gristmill.enqueue``, also of replayed ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from workers.runtime.enqueue import Enqueued, EnqueueError, enqueue
from workers.runtime.handler.registry import registry
from workers.runtime.refusals import Problem, quoted

DOOR = "gristmill.enqueue"
PARAMETERS = ("stage", "payload", "idempotency_key", "priority", "due_at")
# By keyword only: the lane, what a repeat means after a failed end, who follows the job, and the user for whom the
# service acts.
BY_KEYWORD = ("lane", "within", "on_failed", "callback_url", "traceparent")
ACTOR = ("user_id", "user_signature")
# The largest message that the door reads; a payload may have a mebibyte.
MAX_MESSAGE_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class EnqueueRequest:
    """The job that a message asks for."""

    stage: str
    payload: Mapping[str, Any]
    options: Mapping[str, Any]
    user_id: UUID | None = None
    user_signature: str | None = field(default=None, repr=False)


def read_request(arguments: Sequence[Any], keywords: Mapping[str, Any], *, message_id: object) -> EnqueueRequest:
    """Return the request of a message; raise EnqueueError if it is invalid.

    If the message has no idempotency key, its id is used, so that a redelivered message returns the same job.
    """
    given = _by_name(arguments, keywords)
    stage, payload = given.pop("stage"), given.pop("payload")
    if not isinstance(stage, str):
        raise EnqueueError(Problem("stage", "must be a text", quoted(stage)))
    if not isinstance(payload, Mapping):
        raise EnqueueError(Problem("payload", "must be an object", quoted(payload)))
    user_id, signature = given.pop("user_id", None), given.pop("user_signature", None)
    if signature is not None and not isinstance(signature, str):
        raise EnqueueError(Problem("user_signature", "must be a text", f"one of type {type(signature).__name__}"))
    options = {name: value for name, value in given.items() if value is not None}
    if "idempotency_key" not in options:
        if not isinstance(message_id, str) or not message_id.strip():
            raise EnqueueError(f"a message must have an id, or an idempotency_key, got {quoted(message_id)}")
        options["idempotency_key"] = f"celery:{message_id}"
    return EnqueueRequest(stage, payload, options, user_id=_user_id(user_id), user_signature=signature)


def _user_id(value: object) -> UUID | None:
    if value is None:
        return None
    try:
        return UUID(str(value))
    except ValueError:
        raise EnqueueError(Problem("user_id", "must be a UUID", quoted(value))) from None


def put_request(session: Session, request: EnqueueRequest) -> Enqueued:
    """Enqueue the job of a request in ``session``'s transaction, as the user whom the message names.

    A worker's or an operator's login may act for anybody, but a message may not. In strict mode it must name a user and
    have a signature that the database accepts. A job for a user must belong to that user. Otherwise raise EnqueueError;
    also raise the errors of :func:`enqueue`.
    """
    _act_for(session, request)
    done = enqueue(session, request.stage, request.payload, **request.options)
    if request.user_id is not None:
        model = registry[request.stage].model
        if session.scalar(select(model.owner_id).where(model.id == done.id)) != request.user_id:
            raise EnqueueError(Problem("user_id", "must own what the job is about", quoted(str(request.user_id))))
    return done


# In strict mode the database checks the signature even of a trusted login, if there is one. So a message without a user
# gets a user that nobody signs, and a message without a signature gets one that no key made.
_NOBODY = UUID(int=0)
_UNSIGNED = "none"
_ACT_FOR = text(
    "SELECT runtime.actor_id(), set_config('gristmill.user_id', :user, true),"
    " set_config('gristmill.user_signature', :signature, true)"
    "  FROM (SELECT set_config('gristmill.user_id', :asked, true) AS one,"
    "               set_config('gristmill.user_signature', :proof, true) AS other OFFSET 0) AS said"
    " WHERE one IS NOT NULL AND other IS NOT NULL"
)
_NOT_AUTHORIZED = "28000"


def _act_for(session: Session, request: EnqueueRequest) -> None:
    values = {
        "user": str(request.user_id or ""),
        "signature": request.user_signature or "",
        "asked": str(request.user_id or _NOBODY),
        "proof": request.user_signature or _UNSIGNED,
    }
    try:
        session.execute(_ACT_FOR, values)
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != _NOT_AUTHORIZED:
            raise
        if request.user_id is None:
            raise EnqueueError(Problem("user_id", "is required in strict mode", "nothing")) from None
        if not request.user_signature:
            raise EnqueueError(Problem("user_signature", "is required in strict mode", "nothing")) from None
        said = str(error.orig).splitlines()[0].removeprefix("gristmill.")
        raise EnqueueError(said) from None


def has_idempotency_key(arguments: Sequence[Any], keywords: Mapping[str, Any]) -> bool:
    """Tell whether a message has an idempotency key: messages with the same key ask for one job."""
    place = PARAMETERS.index("idempotency_key")
    given = arguments[place] if len(arguments) > place else keywords.get("idempotency_key")
    return given is not None


def without_signature(keywords: Any) -> Any:
    """Return a message's keywords without the signature: a valid signature is as secret as a password."""
    if not isinstance(keywords, Mapping) or "user_signature" not in keywords:
        return keywords
    return {**keywords, "user_signature": "[signature]"}


def _by_name(arguments: Sequence[Any], keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments by the name of their parameter."""
    if len(arguments) > len(PARAMETERS):
        raise EnqueueError(
            f"{DOOR} must have at most {len(PARAMETERS)} arguments ({', '.join(PARAMETERS)}), got {len(arguments)}"
        )
    given = dict(zip(PARAMETERS, arguments, strict=False))
    for name, value in keywords.items():
        if name not in (*PARAMETERS, *BY_KEYWORD, *ACTOR):
            known = ", ".join((*PARAMETERS, *BY_KEYWORD, *ACTOR))
            raise EnqueueError(Problem("keyword", f"must be one of {known}", quoted(name)))
        if name in given:
            raise EnqueueError(f"{name} must be given once, got it by position and by keyword")
        given[name] = value
    for name in ("stage", "payload"):
        if given.get(name) is None:
            raise EnqueueError(Problem(name, "is required", "nothing"))
    return given
