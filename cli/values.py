"""Read what people type and format what they read: ages, times, payloads, durations."""

import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from workers.runtime.json_text import JsonTextError, read_json
from workers.runtime.refusals import Refusal, quoted
from workers.runtime.undecodable import Undecodable

# Printed for an age that cannot be read.
UNKNOWN = "?"
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def format_count(number: int, noun: str, plural: str | None = None) -> str:
    """Return ``number`` with its noun: "1 job", "2 jobs"."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def parse_age(text: str) -> timedelta:
    """Return the duration of ``text``: a number with s, m, h, d or w."""
    found = re.fullmatch(r"(\d{1,6})([smhdw])", text.strip())
    if found is None:
        raise Refusal(f"age must be a number with s, m, h, d or w, for example 10m, got {quoted(text)}")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


_OFFSET = "give an offset, for example 2030-01-31T08:00+01:00"


def parse_time(text: str) -> datetime:
    """Return the time of ``text`` in ISO 8601; without an offset it is in this machine's zone.

    A local time that does not exist, or exists twice because clocks change, is refused: it needs an offset.
    """
    try:
        given = datetime.fromisoformat(text.strip())
        earlier, later = given.replace(fold=0).astimezone(), given.replace(fold=1).astimezone()
    except (ValueError, OverflowError):
        raise Refusal(f"time must be ISO 8601, for example 2030-01-31T08:00, got {quoted(text)}") from None
    if earlier.utcoffset() == later.utcoffset():
        return earlier
    fault = "exists twice" if earlier.replace(tzinfo=None) == given.replace(fold=0) else "does not exist"
    raise Refusal(f"time {fault} in this machine's zone, where clocks change then, got {quoted(text)}", remedy=_OFFSET)


def parse_expiry(text: str) -> datetime:
    """Return the time of ``text``: ISO 8601, or an age such as 90d, counted from now."""
    if not re.fullmatch(r"\d+[a-z]", text.strip()):
        return parse_time(text)
    try:
        return datetime.now(UTC) + parse_age(text)
    except OverflowError:
        raise Refusal(f"time must be before the year 10000, got {quoted(text)}") from None


def parse_payload(text: str) -> dict[str, Any]:
    """Return the JSON object in ``text``. ``@FILE`` reads it from a file, ``@-`` from standard input."""
    if text.startswith("@"):
        source, text = text[1:], _read_text(text[1:])
    else:
        source = "payload"
    try:
        payload = read_json(text)
    except JsonTextError as error:
        raise Refusal(f"{source} {error}") from None
    if not isinstance(payload, dict):
        raise Refusal(f"{source} must be a JSON object, got {quoted(text)}")
    return payload


def _read_text(name: str) -> str:
    try:
        return sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except OSError as error:
        raise Refusal(f"payload file {name!r} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Refusal(f"payload file {name!r} is not UTF-8") from None


def format_duration(span: timedelta | Undecodable | None) -> str:
    """Return ``span`` in the largest unit that fits: 30 ms, 4.2 s, 42 s, 3 min, 5 h, 12 d; an empty text for None."""
    if span is None:
        return ""
    if isinstance(span, Undecodable):
        return UNKNOWN
    seconds = max(span.total_seconds(), 0)
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    for limit, size, unit in ((120, 1, "s"), (7_200, 60, "min"), (172_800, 3_600, "h")):
        if seconds < limit:
            return f"{seconds:.1f} s" if seconds < 10 else f"{seconds / size:.0f} {unit}"  # noqa: PLR2004 - one digit more
    return f"{seconds / 86_400:.0f} d"


def format_time(time: datetime | Undecodable | None) -> str:
    """Return ``time`` in this machine's zone, to the second; an empty text for None."""
    if isinstance(time, Undecodable):
        return str(time)
    return time.astimezone().isoformat(sep=" ", timespec="seconds") if time else ""


def json_default(value: Any) -> Any:
    """Return ``value`` for ``json.dumps``: times in ISO 8601 and UTC, durations in seconds, others as text."""
    match value:
        case datetime():
            return value.astimezone(UTC).isoformat()
        case timedelta():
            return value.total_seconds()
        case set() | frozenset() | tuple():
            return list(value)
        case _:
            return str(value)
