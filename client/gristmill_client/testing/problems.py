"""Problems of the test gateway: the kinds, statuses and documents of the real one."""

from collections.abc import Mapping, Sequence
from typing import Any

import httpx2

from gristmill_client.errors import FieldError

MEDIA_TYPE = "application/problem+json"
_IANA = "https://iana.org/assignments/http-problem-types#"
_KINDS: Mapping[str, tuple[int, str]] = {
    "malformed": (400, "The request is malformed"),
    "unauthenticated": (401, "No valid key"),
    "forbidden": (403, "Not allowed"),
    "not-found": (404, "Not found"),
    "method-not-allowed": (405, "Method not allowed"),
    "conflict": (409, "The state does not allow it"),
    "stale-version": (412, "The version is stale"),
    "too-large": (413, "The body is too large"),
    "unsupported-media-type": (415, "The body's type is not supported"),
    "invalid": (422, "The request breaks a rule"),
    "version-required": (428, "A version is required"),
    "quota-exceeded": (429, "The key's limit is reached"),
    "internal": (500, "The request failed"),
    "failed": (502, "It did not succeed"),
    "unavailable": (503, "A server is not available"),
    "temporary-reduced-capacity": (503, "The gateway is busy"),
}
_OF_IANA = frozenset({"quota-exceeded", "temporary-reduced-capacity"})
BY_STATUS = {status: kind for kind, (status, _) in reversed(list(_KINDS.items()))}


class Problem(Exception):
    """A request is refused. ``errors`` are the broken rules; without a detail the first one is the line."""

    def __init__(
        self,
        kind: str,
        detail: str | None = None,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.kind, self.errors, self.headers = kind, tuple(errors), dict(headers or {})
        self.detail = detail or "; ".join(map(line_of, errors[:3])) or _KINDS[kind][1]
        super().__init__(self.detail)

    @property
    def status(self) -> int:
        return _KINDS[self.kind][0]

    @property
    def type(self) -> str:
        return (_IANA if self.kind in _OF_IANA else "/problems/") + self.kind

    def document(self, request: httpx2.Request, request_id: str) -> dict[str, Any]:
        return {
            "type": self.type,
            "title": _KINDS[self.kind][1],
            "status": self.status,
            "detail": " ".join(self.detail.split()),
            "instance": request.url.path,
            "request_id": request_id,
            "errors": [one._asdict() for one in self.errors],
        }


def line_of(error: FieldError) -> str:
    """Return the line that a person reads."""
    got = f", got {error.value}" if error.value is not None and ", got " not in error.rule else ""
    return f"{error.field} {error.rule}{got}" + (f"; {error.remedy}" if error.remedy else "")


def invalid(
    field: str, rule: str, value: object = None, remedy: str | None = None, *, kind: str = "invalid"
) -> Problem:
    """Return the problem of one broken rule."""
    shown = None if value is None else repr(value)[:80]
    return Problem(kind, errors=[FieldError(field, rule, shown, remedy)])


def not_found(what: str) -> Problem:
    """Return the problem of an id that does not exist, or that belongs to somebody else."""
    return Problem("not-found", f"{what} does not exist")
