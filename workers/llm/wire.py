"""Read what an answer carried over the wire, whatever a compatible server made of the format. Pure.

Chat completions here, embeddings in ``vectors.py``.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from workers.llm.calls import Usage
from workers.llm.errors import URL_HINT, message_of, of_status, quotable, status_of
from workers.runtime.handler.errors import InvalidAnswers, Refused, Unavailable

# Deeper JSON than any answer needs is read by nobody's recursion, and neither is a number of thousands of digits.
MAX_DEPTH, MAX_DIGITS = 64, 40
MODEL_CHARS = 255
MAX_TOKENS = 2**31 - 1

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
# How a server says that it ended or left out an answer for what it says: OpenAI, then those that pass on Google's.
_FILTERED = frozenset({"content_filter", "refusal", "safety", "prohibited_content", "blocklist", "recitation", "spii"})
# How a server says that an answer reached its limit: OpenAI, those that pass on Anthropic's and Google's, Mistral.
_CUT = frozenset({"length", "max_tokens", "max_output_tokens", "model_length"})
_REASONING = ("reasoning_content", "reasoning", "thinking")
_THOUGHTS = frozenset({"thinking", "reasoning", "thought", "reasoning_text", "reasoning_content", "summary_text"})


class TooDeepError(ValueError):
    """A JSON value is nested deeper than it may be."""

    def __init__(self) -> None:
        super().__init__(f"it is nested deeper than {MAX_DEPTH} levels")


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One answer of a server: the body as it came, and what of it matters.

    ``reasons``: the model wrote reasoning apart from ``text``. ``usage`` is the server's own object.
    """

    raw: dict[str, Any]
    text: str
    model: str | None
    finish_reason: str | None
    reasons: bool
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None
    reasoning_tokens: int | None
    usage: Mapping[str, Any] | None

    @property
    def is_cut(self) -> bool:
        """Whether the answer ended because it reached its limit of tokens."""
        return (self.finish_reason or "").lower() in _CUT

    def used(self, *, seconds: float) -> Usage:
        """Return what the call used, for the ledger."""
        return Usage(
            input_tokens=self.prompt_tokens,
            output_tokens=self.completion_tokens,
            cached_input_tokens=self.cached_tokens,
            reasoning_tokens=self.reasoning_tokens,
            raw=self.usage,
            served_model=self.model,
            seconds=seconds,
        )


def read(body: str, headers: Mapping[str, str] | None = None) -> Completion:
    """Return the completion in ``body``; raise the kernel's error where it carries none.

    A refusal and a content filter are Refused; an error sent with HTTP 200, beside a choice or within it, is judged by
    its code; a body that is no JSON object (a proxy's page, a wrong path), or that has no choice, says that the
    provider is away.
    """
    raw = json_object(body, clean=storable)
    choices = raw.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], Mapping) else None
    message = choice.get("message") if choice is not None else None
    if raw.get("error") and (choice is None or not _text_in(message)):
        raise error_in(raw, headers)
    if choice is not None and choice.get("error"):
        raise error_in(choice, headers)
    if choice is None or not isinstance(message, Mapping):
        # A server in trouble: whatever was asked, an answer has a choice.
        raise Unavailable("an answer without a choice")
    finished = choice.get("finish_reason")
    finished = finished if isinstance(finished, str) else None
    refusal = message.get("refusal")
    if refusal or (finished or "").lower() in _FILTERED:
        said = refusal if isinstance(refusal, str) else f"content filter ({finished})"
        raise Refused(f"provider refused the content: {quotable(said)}")
    if finished == "error" and not _text_in(message):
        raise Unavailable("an answer that ended with an error")
    usage = raw.get("usage")
    reasoning = count_in(_inside(usage, "completion_tokens_details"), "reasoning_tokens")
    return Completion(
        raw=raw,
        text=_text(message.get("content")),
        model=raw["model"][:MODEL_CHARS] if isinstance(raw.get("model"), str) and raw["model"] else None,
        finish_reason=finished,
        reasons=bool(reasoning) or any(message.get(name) for name in _REASONING),
        prompt_tokens=count_in(usage, "prompt_tokens"),
        completion_tokens=count_in(usage, "completion_tokens"),
        cached_tokens=_cached_in(usage),
        reasoning_tokens=reasoning,
        usage=usage if isinstance(usage, Mapping) else None,
    )


def storable(value: Any, *, depth: int = MAX_DEPTH) -> Any:
    """Return a JSON value as Postgres can keep it: no NUL, no lone surrogate, no infinity or NaN.

    Raise TooDeepError for one that is nested deeper than ``depth``.
    """
    match value:
        case str():
            return _UNSTORABLE.sub("\ufffd", value)
        case float() if not math.isfinite(value):
            return None
        case dict() | list() if depth == 0:
            raise TooDeepError
        case dict():
            return {storable(key): storable(item, depth=depth - 1) for key, item in value.items()}
        case list():
            return [storable(item, depth=depth - 1) for item in value]
        case _:
            return value


def whole_number(digits: str) -> int | float:
    """Return a number of JSON; one too long to be a number of anything is infinite, which is kept nowhere."""
    return int(digits) if len(digits) <= MAX_DIGITS else math.inf


def json_object(body: str, *, clean: Callable[[Any], Any] = lambda value: value) -> dict[str, Any]:
    """Return the JSON object that ``body`` is, made clean; raise Unavailable for what comes from no such server."""
    try:
        value = clean(json.loads(body, parse_int=whole_number))
    except (TooDeepError, RecursionError):
        raise InvalidAnswers(f"provider answered with JSON nested deeper than {MAX_DEPTH} levels") from None
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise Unavailable(f"an answer that is no JSON object; {URL_HINT}, which ends with the API's path", of="server")
    return value


def error_in(raw: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Exception:
    """Return the kernel's error for one that was sent with HTTP 200, judged by its code."""
    error = raw["error"]
    code = error.get("code") if isinstance(error, Mapping) else None
    code = code if isinstance(code, str) else None
    return of_status(status_of(error), code=code, message=quotable(message_of(raw)), headers=headers)


def _text_in(message: object) -> str:
    return _text(message.get("content")) if isinstance(message, Mapping) else ""


def _text(content: object) -> str:
    """Return the message's text; some servers send it in parts, of which some are the model's reasoning."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = (part.get("text") for part in content if isinstance(part, Mapping) and part.get("type") not in _THOUGHTS)
    return "".join(part for part in parts if isinstance(part, str))


def count_in(usage: object, *names: str) -> int | None:
    """Return the first of these counts that the server gives."""
    numbers = [usage.get(name) for name in names] if isinstance(usage, Mapping) else []
    return next((int(number) for number in numbers if _is_count(number)), None)


def _cached_in(usage: object) -> int | None:
    """Return the tokens of the question that the server had cached, by OpenAI's name or DeepSeek's."""
    cached = count_in(_inside(usage, "prompt_tokens_details"), "cached_tokens")
    return cached if cached is not None else count_in(usage, "prompt_cache_hit_tokens")


def _inside(usage: object, name: str) -> object:
    return usage.get(name) if isinstance(usage, Mapping) else None


def _is_count(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= MAX_TOKENS
