"""Read what an answer carried over the wire, whatever a compatible server made of the format. Pure.

Chat completions here, embeddings in ``vectors.py``.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from workers.llm.errors import message_of, of_status, quotable
from workers.runtime.errors import Refused, Retryable

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_SERVER_ERROR = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One answer of a server: the body as it came, and what of it matters."""

    raw: dict[str, Any]
    text: str
    model: str | None
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None


def read(body: str) -> Completion:
    """Return the completion in ``body``; raise the kernel's error where it carries none.

    A refusal and a content filter are Refused; an error sent with HTTP 200 is judged by its code; a body that is
    no JSON object (a proxy's page, a wrong path) is Retryable.
    """
    raw = json_object(body, clean=storable)
    if raw.get("error") and not raw.get("choices"):
        raise error_in(raw)
    choices = raw.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], Mapping) else None
    if choice is None or not isinstance(message := choice.get("message"), Mapping):
        raise Retryable("provider answered without a choice")
    if choice.get("finish_reason") == "content_filter" or message.get("refusal"):
        raise Refused(f"provider refused the content: {quotable(str(message.get('refusal') or 'content filter'))}")
    usage = raw.get("usage")
    return Completion(
        raw=raw,
        text=_text(message.get("content")),
        model=raw["model"] if isinstance(raw.get("model"), str) and raw["model"] else None,
        finish_reason=choice.get("finish_reason"),
        prompt_tokens=count_in(usage, "prompt_tokens"),
        completion_tokens=count_in(usage, "completion_tokens"),
    )


def storable(value: Any) -> Any:
    """Return a JSON value as Postgres can keep it: no NUL, no lone surrogate, no infinity or NaN."""
    match value:
        case str():
            return _UNSTORABLE.sub("\ufffd", value)
        case float() if not math.isfinite(value):
            return None
        case dict():
            return {storable(key): storable(item) for key, item in value.items()}
        case list():
            return [storable(item) for item in value]
        case _:
            return value


def json_object(body: str, *, clean: Callable[[Any], Any] = lambda value: value) -> dict[str, Any]:
    """Return the JSON object that ``body`` is, made clean; raise Retryable for anything else."""
    try:
        value = clean(json.loads(body))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise Retryable("provider answered with no JSON object; check that OPENAI_BASE_URL ends with the API's path")
    return value


def error_in(raw: Mapping[str, Any]) -> Exception:
    """Return the kernel's error for one that was sent with HTTP 200, judged by its code."""
    error = raw["error"]
    code = error.get("code") if isinstance(error, Mapping) else None
    status = int(str(code)) if str(code).isdecimal() else _SERVER_ERROR
    return of_status(status, code=code if isinstance(code, str) else None, message=quotable(message_of(raw)))


def _text(content: object) -> str:
    """Return the message's text; some servers send it in parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = (part.get("text") for part in content if isinstance(part, Mapping))
    return "".join(part for part in parts if isinstance(part, str))


def count_in(usage: object, *names: str) -> int | None:
    """Return the first of these counts that the server gives."""
    numbers = [usage.get(name) for name in names] if isinstance(usage, Mapping) else []
    return next((int(number) for number in numbers if isinstance(number, (int, float)) and number >= 0), None)
