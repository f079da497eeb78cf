"""Headers that several routes share: the version of an object as ``ETag`` and ``If-Match``. Pure, but the refusals."""

import re
from typing import Annotated

from fastapi import Depends, Header, Request

from gateway.problems import HttpProblem
from workers.runtime.refusals import Problem, quoted

_VERSION = re.compile(r'"(0|[1-9][0-9]{0,17})"')
_DESCRIPTION = 'the version that was read, as in `ETag`: `"7"`. Another version is refused with 412.'
_Header = Annotated[str | None, Header(alias="If-Match", description=_DESCRIPTION, examples=['"7"'])]


def etag(version: int) -> str:
    """Return ``version`` as the value of ``ETag``."""
    return f'"{version}"'


def read_version(value: str) -> int | None:
    """Return the version that ``If-Match`` names; None for ``*``: any version. Refuse anything else."""
    if value.strip() == "*":
        return None
    found = _VERSION.fullmatch(value.strip())
    if found is None:
        problem = Problem("If-Match", 'must be one version in quotes, such as "7", or *', quoted(value))
        raise HttpProblem("invalid", str(problem), errors=[problem])
    return int(found.group(1))


async def _optional_version(request: Request, if_match: _Header = None) -> int | None:
    if len(request.headers.getlist("if-match")) > 1:
        problem = Problem("If-Match", "must be sent once")
        raise HttpProblem("invalid", str(problem), errors=[problem])
    return None if if_match is None else read_version(if_match)


async def _required_version(request: Request, if_match: _Header = None) -> int | None:
    if if_match is None:
        problem = Problem("If-Match", "is required", "nothing", "send the version of `ETag`, or * for any version")
        raise HttpProblem("version-required", str(problem), errors=[problem])
    return await _optional_version(request, if_match)


# The version that the caller read; None: any version.
OptionalVersion = Annotated[int | None, Depends(_optional_version)]
RequiredVersion = Annotated[int | None, Depends(_required_version)]


_KEY_DESCRIPTION = (
    "makes the request safe to repeat: the same key and content return the first job. "
    "The same as `idempotency_key` in the body."
)


async def _read_key(
    request: Request,
    key: Annotated[str | None, Header(alias="Idempotency-Key", max_length=300, description=_KEY_DESCRIPTION)] = None,
) -> str | None:
    if key is None:
        return None
    sent = {_unquoted(value) for value in request.headers.getlist("idempotency-key")}
    if len(sent) > 1:
        problem = Problem("Idempotency-Key", "must be sent once", quoted(", ".join(sorted(sent))))
        raise HttpProblem("invalid", str(problem), errors=[problem])
    return sent.pop()


def _unquoted(value: str) -> str:
    """Return the key of a header: quoted, as the draft of the IETF has it, or as it is."""
    value = value.strip()
    is_quoted = len(value) > 1 and value[0] == value[-1] == '"'
    return value[1:-1].replace('\\"', '"').replace("\\\\", "\\") if is_quoted else value


# The header `Idempotency-Key`; None if it is not sent.
IdempotencyKey = Annotated[str | None, Depends(_read_key)]
