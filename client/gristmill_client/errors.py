"""The errors that this package raises. Each message is one line and contains no secret."""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple


class FieldError(NamedTuple):
    """One broken rule of a request: ``field`` breaks ``rule``. ``value`` quotes what was given, shortened."""

    field: str
    rule: str
    value: str | None = None
    remedy: str | None = None


class GristmillError(Exception):
    """Any error of this package. ``str()`` is one line.

    ``code`` is a word for programs. Over HTTP, ``status`` and ``request_id`` are those of the answer (the gateway's log
    has the same id), ``errors`` has every broken rule, and ``retry_after`` says after how many seconds a repeat makes
    sense. All of them are None where they do not apply. ``may_have_happened`` tells whether an attempt that got no
    answer may have had its effect all the same.
    """

    code_by_default: ClassVar[str] = "failed"
    may_have_happened: bool = False

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        rule: str | None = None,
        value: str | None = None,
        remedy: str | None = None,
        position: int = 0,
        code: str | None = None,
        status: int | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        errors: Sequence[FieldError] = (),
    ) -> None:
        super().__init__(message)
        self.field = field
        self.rule = rule
        self.value = value
        self.remedy = remedy
        self.position = position
        self.code = code or self.code_by_default
        self.status = status
        self.request_id = request_id
        self.retry_after = retry_after
        self.errors = tuple(errors)


class Refused(GristmillError):
    """Gristmill refuses the request: ``field`` breaks ``rule``. Nothing was enqueued or changed.

    ``value`` quotes what was given, in at most 80 characters. ``position`` is the place of the job among many, from 0.
    ``code`` says why: ``invalid``, ``key_taken`` (the key, or a name that must be new, is taken), ``unknown_stage``, or
    ``forbidden``. Over HTTP it is the name of the problem's type, such as ``invalid`` or ``too-large``.
    """

    code_by_default = "invalid"


class Unauthenticated(Refused):
    """The API key is not valid: unknown, expired or revoked."""

    code_by_default = "unauthenticated"


class Forbidden(Refused):
    """The key is valid, but it may not do this; ``field`` is ``scope`` if a scope is missing."""

    code_by_default = "forbidden"


class NotFound(Refused, LookupError):
    """Nothing has this id, or it belongs to somebody else."""

    code_by_default = "not-found"


class Conflict(Refused):
    """The state of the object does not allow it: for example, the job has ended."""

    code_by_default = "conflict"


class Stale(Conflict):
    """Somebody changed the object since it was read. The message names both versions. Read it again, then decide."""

    code_by_default = "stale-version"


class RateLimited(GristmillError):
    """The key sent too many requests. The client has waited and repeated until its time was up."""

    code_by_default = "quota-exceeded"


class Unavailable(GristmillError):
    """No gateway answered in time, or it could not serve. The client has repeated until its time was up.

    With the same idempotency key it is safe to send the request again.
    """

    code_by_default = "unavailable"


class Failed(GristmillError):
    """The gateway has an error of its own, or what it tried did not succeed. Its log has the request id."""

    code_by_default = "failed"


class UnexpectedAnswer(GristmillError):
    """The answer is not what this client reads: another server, another release, or a result of another shape."""

    code_by_default = "unexpected-answer"


class BadSignature(GristmillError):
    """A webhook was not signed with one of the secrets, or not within the tolerance. Do not believe it."""

    code_by_default = "bad-signature"


class NotPossible(GristmillError):
    """The call cannot work like this, whatever the job is: for example, to wait inside an open transaction."""

    code_by_default = "not-possible"
