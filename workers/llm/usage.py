"""What a call used, by the provider's own count, and whether one without an answer may be charged. Pure."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import httpx2

from workers.llm.calls import Usage
from workers.llm.wire import count_in, storable, whole_number
from workers.runtime.handler.errors import BrokenVectors, InvalidAnswers, Refused, UnfitVectors
from workers.runtime.handler.tokens import BYTES_PER_TOKEN

# What cannot have reached the provider.
_NOT_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.UnsupportedProtocol)
_MAX_CHARACTERS = 8_000_000


def usage_of(raw: object, *, served_model: str | None, seconds: float) -> Usage:
    """Return what a usage object says; what it leaves out is None."""
    if not isinstance(raw, Mapping):
        return Usage(input_tokens=None, output_tokens=None, served_model=served_model, seconds=seconds)
    return Usage(
        input_tokens=count_in(raw, "prompt_tokens", "input_tokens", "total_tokens"),
        output_tokens=count_in(raw, "completion_tokens", "output_tokens"),
        cached_input_tokens=count_in(raw.get("prompt_tokens_details"), "cached_tokens"),
        reasoning_tokens=count_in(raw.get("completion_tokens_details"), "reasoning_tokens"),
        raw=raw,
        served_model=served_model,
        seconds=seconds,
    )


def usage_in(body: str, *, seconds: float) -> Usage | None:
    """Return the usage in the body of an answer that is of no use itself, None where it has none."""
    try:
        raw = json.loads(body[:_MAX_CHARACTERS], parse_int=whole_number)
        usage = storable(raw.get("usage")) if isinstance(raw, Mapping) else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(usage, Mapping):
        return None
    served = raw.get("model")
    found = usage_of(usage, served_model=served if isinstance(served, str) else None, seconds=seconds)
    return None if found.input_tokens is None and found.output_tokens is None else found


def may_be_charged(error: BaseException, *, answered: bool) -> bool:
    """Tell whether a call that ended with ``error`` may have cost something, its usage being unknown.

    A provider that was not reached, or that said no, charges nothing. One that was cut off while it answered may.
    ``answered``: a whole body came, which is of no use.
    """
    if isinstance(error, asyncio.CancelledError):
        return True
    if answered:  # of a page, or an error in its place, no model is the author
        return isinstance(error, (Refused, InvalidAnswers, UnfitVectors, BrokenVectors))
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, _NOT_SENT) or getattr(cause, "status_code", None) is not None:
            return False
        cause = cause.__cause__
    return True


def estimated(body: Mapping[str, Any], text: str, *, default_output: int) -> tuple[int, int]:
    """Return an upper estimate of the tokens in a request's body, and the most that its answer may have.

    ``text`` is the body as JSON in ASCII, in which a character of three bytes has six.
    """
    size = len(text) - 3 * (text.count("\\u") - text.count("\\\\u"))
    most = body.get("max_completion_tokens") or body.get("max_tokens")
    given = int(most) if isinstance(most, (int, float)) and not isinstance(most, bool) and most > 0 else default_output
    return -(-size // BYTES_PER_TOKEN), given
