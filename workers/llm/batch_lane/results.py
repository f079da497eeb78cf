"""Read the lines of a provider's results, whatever it made of them. Pure."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from workers.llm.errors import quotable
from workers.llm.wire import MAX_DEPTH, TooDeepError, count_in, storable, whole_number

SUCCESS = range(200, 300)
# Another batch would get the same answer; the normal lane's own call says what is wrong.
HOPELESS = range(400, 500)
WORTH_ANOTHER_TRY = frozenset({408, 409, 425, 429})
EXPIRED_CODES = frozenset({"batch_expired", "batch_cancelled", "expired", "canceled", "cancelled"})
MAX_FAILURE_CHARS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class LineResult:
    """What became of one line: the body of its ``answer``, or the ``failure``.

    ``is_hopeless``: another batch would do no better.
    """

    custom_id: str
    answer: str | None = None
    usage: Mapping[str, Any] | None = None
    served_model: str | None = None
    failure: str | None = None
    is_hopeless: bool = False

    def tokens(self, name: str) -> int | None:
        """Return a count of the line's usage object."""
        return count_in(self.usage, name)

    def detail(self, group: str, name: str) -> int | None:
        """Return a count of a group of the line's usage object."""
        return count_in(self.usage.get(group), name) if self.usage is not None else None


def results_of(lines: Iterable[str | bytes | Mapping[str, Any]]) -> Iterator[LineResult]:
    """Yield what became of each line that names itself; lines that nobody can read are left out."""
    for line in lines:
        raw = line if isinstance(line, Mapping) else _parsed(line)
        if raw is None or not isinstance(name := raw.get("custom_id"), str):
            continue
        yield _result(name, raw)


def _parsed(line: str | bytes) -> Mapping[str, Any] | None:
    try:
        value = json.loads(line, parse_int=whole_number)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, Mapping) else None


def _result(name: str, raw: Mapping[str, Any]) -> LineResult:
    response, error = raw.get("response"), raw.get("error")
    status = response.get("status_code", SUCCESS.start) if isinstance(response, Mapping) else None
    body = response.get("body") if isinstance(response, Mapping) else None
    if status in SUCCESS and isinstance(body, Mapping) and not error:
        return _answer(name, body)
    code = _code(error) or _code(body)
    said = _message(error) or (_message(body) if isinstance(body, Mapping) else None) or "no answer"
    is_hopeless = (
        isinstance(status, int) and status in HOPELESS and status not in WORTH_ANOTHER_TRY and code not in EXPIRED_CODES
    )
    numbered = " ".join(str(part) for part in (f"HTTP {status}" if status is not None else None, code) if part)
    failure = f"{numbered}: {said}" if numbered else said
    return LineResult(custom_id=name, failure=quotable(failure)[:MAX_FAILURE_CHARS], is_hopeless=is_hopeless)


def _answer(name: str, body: Mapping[str, Any]) -> LineResult:
    try:
        clean = storable(dict(body))
        text = json.dumps(clean, ensure_ascii=False, allow_nan=False)
    except (TooDeepError, ValueError, RecursionError):
        failure = f"the answer is nested deeper than {MAX_DEPTH} levels, or has a number that nobody can store"
        return LineResult(custom_id=name, failure=failure)
    usage = clean.get("usage")
    model = clean.get("model")
    return LineResult(
        custom_id=name,
        answer=text,
        usage=usage if isinstance(usage, Mapping) else None,
        served_model=model if isinstance(model, str) and model else None,
    )


def _code(value: object) -> str | None:
    inner = value.get("error", value) if isinstance(value, Mapping) else None
    code = (inner.get("code") or inner.get("type")) if isinstance(inner, Mapping) else None
    return str(code) if isinstance(code, (str, int)) and not isinstance(code, bool) else None


def _message(value: object) -> str | None:
    inner = value.get("error", value) if isinstance(value, Mapping) else value
    if isinstance(inner, str):
        return inner
    message = inner.get("message") if isinstance(inner, Mapping) else None
    return message if isinstance(message, str) and message else None
