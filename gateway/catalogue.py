"""The kinds of problems: their types, statuses and meanings, and the pages that document them. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

_IANA = "https://iana.org/assignments/http-problem-types#"


@dataclass(frozen=True, slots=True)
class ProblemType:
    """One kind of problem. ``meaning`` is for the client's author: what it means and what to do."""

    name: str
    status: int
    title: str
    meaning: str
    is_iana: bool = False

    @property
    def uri(self) -> str:
        return (_IANA if self.is_iana else "/problems/") + self.name


_ALL = (
    ProblemType(
        "malformed", 400, "The request is malformed", "The request cannot be read. Do not repeat it unchanged."
    ),
    ProblemType(
        "unauthenticated",
        401,
        "No valid key",
        "Send a valid API key or token as `Authorization: Bearer …`. A revoked or expired key is not valid.",
    ),
    ProblemType(
        "forbidden",
        403,
        "Not allowed",
        "The key is valid, but it may not do this. `errors` names the scope that is missing.",
    ),
    ProblemType(
        "not-found", 404, "Not found", "Nothing has this id or name, or it belongs to somebody else. Check the path."
    ),
    ProblemType(
        "method-not-allowed", 405, "Method not allowed", "This path has other methods: see the header `Allow`."
    ),
    ProblemType(
        "too-slow", 408, "The request came too slowly", "The body did not arrive in time. Send it again, faster."
    ),
    ProblemType(
        "conflict",
        409,
        "The state does not allow it",
        "The object's state does not allow the change. Read it again and decide.",
    ),
    ProblemType(
        "stale-version",
        412,
        "The version is stale",
        "Somebody changed the object since it was read. Read it again, then send its new version as `If-Match`.",
    ),
    ProblemType("too-large", 413, "The body is too large", "The body has more bytes than this route accepts."),
    ProblemType(
        "unsupported-media-type",
        415,
        "The body's type is not supported",
        "This route reads another type: set the header `Content-Type`, for example to `application/json`.",
    ),
    ProblemType(
        "invalid",
        422,
        "The request breaks a rule",
        "`errors` names each field with the rule and the value. Do not repeat the request unchanged.",
    ),
    ProblemType(
        "version-required",
        428,
        "A version is required",
        "Send the version that you read (the header `ETag`) as `If-Match`, so that no change of others is overwritten.",
    ),
    ProblemType(
        "too-many",
        429,
        "A limit is reached",
        "A limit of the system is reached. Wait as `Retry-After` says; try again.",
    ),
    ProblemType(
        "quota-exceeded",
        429,
        "The key's limit is reached",
        "The key sent more requests than its policy allows. Wait as `Retry-After` says.",
        is_iana=True,
    ),
    ProblemType(
        "headers-too-large", 431, "The headers are too large", "The headers have more bytes than are accepted."
    ),
    ProblemType(
        "internal",
        500,
        "The request failed",
        "An error of the server. The request may have had an effect: repeat it with the same idempotency key.",
    ),
    ProblemType("failed", 502, "It did not succeed", "It was tried and did not succeed; `detail` says why."),
    ProblemType(
        "unavailable",
        503,
        "A server is not available",
        "Postgres or Redis does not answer now. Wait as `Retry-After` says, then repeat with the same idempotency key.",
    ),
    ProblemType(
        "temporary-reduced-capacity",
        503,
        "The gateway is busy",
        "Too many requests run at once. Wait as `Retry-After` says, then repeat the request.",
        is_iana=True,
    ),
)
PROBLEMS: Mapping[str, ProblemType] = {one.name: one for one in _ALL}
# For errors that the framework raises with a bare status: the first kind with that status.
BY_STATUS: Mapping[int, ProblemType] = {one.status: one for one in reversed(_ALL)}
