"""Keep secrets and payloads out of logs, pages and messages. Pure functions that know no settings."""

import re
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import date, timedelta
from enum import Enum
from pathlib import PurePath
from uuid import UUID

from pydantic import SecretBytes, SecretStr

MASK = "***"
TEXT_LIMIT = 2_000
TRACEBACK_LIMIT = 16_000
_MAX_DEPTH = 6

_PAYLOAD_KEYS = frozenset({"payload", "prompt", "llm_response", "messages"})
_SECRET_KEY = re.compile(
    r"(^|_)(password|passwd|secret|token|credentials?|authorization|cookie|api_?key|basic_auth)$", re.IGNORECASE
)

_KEY_ENDS = " (?:already exists|is not present in table|is still referenced from table|is duplicated|conflicts with)"
# The parts that may follow a message in a traceback, each on its own line.
_NEXT_PART = r"\n(?:\[SQL: |CONTEXT: |\(Background|The above exception|During handling|Traceback )"
_KEY_NAMES = r"\((?:(?!\)=\()[^\n])*\)"
_Replacement = str | Callable[[re.Match[str]], str]
_IN_TEXT: tuple[tuple[re.Pattern[str], _Replacement], ...] = (
    # scheme://user:password@host, also if the password contains a raw "/" or "@"
    (re.compile(r"\b([a-z][a-z0-9+.-]*://[^\s:/?#@]*):[^\s'\"<>]*@", re.IGNORECASE), rf"\1:{MASK}@"),
    (re.compile(r"\b(password|passwd|secret|token|api_?key)=[^\s&;,'\")]+", re.IGNORECASE), rf"\1={MASK}"),
    (re.compile(r"\b(bearer|basic)\s+(?=\S*[\d=])[\w.~+/=-]{8,}", re.IGNORECASE), rf"\1 {MASK}"),
    (re.compile(r"\bsk-[\w*-]{6,}"), f"sk-{MASK}"),
    (re.compile(r"\bgm_[0-9A-Za-z]{20,}"), f"gm_{MASK}"),
    (re.compile(r"\bwhsec_[0-9A-Za-z+/=]{6,}"), f"whsec_{MASK}"),
    # data that libraries quote: SQLAlchemy's parameters, Postgres' rows, pydantic's input
    (re.compile(r"\[parameters: .*?\](?=\n|$)", re.DOTALL), f"[parameters: {MASK}]"),
    (re.compile(rf"(Failing row contains )\((?:(?!{_NEXT_PART}).)*", re.DOTALL), rf"\1({MASK})"),
    # Postgres' message about a key: the column names and the reason are shown. The values are masked; they may contain
    # brackets and line breaks. If the end of the message is unknown (another language), everything after "=" is masked.
    (re.compile(rf"(Key {_KEY_NAMES}=)\((?:(?!Key \().)*\)(?={_KEY_ENDS})", re.DOTALL), rf"\1({MASK})"),
    (re.compile(r"( existing key \([^\n]*?\)=)\(.*\)", re.DOTALL), rf"\1({MASK})"),
    (re.compile(rf"(Key {_KEY_NAMES}=)\((?!{re.escape(MASK)}\)(?:{_KEY_ENDS})).*", re.DOTALL), rf"\1({MASK})"),
    (re.compile(r"input_value=.*?(?=, input_type=)", re.DOTALL), f"input_value={MASK}"),
)


def redact_text(text: str, *, limit: int = TEXT_LIMIT) -> str:
    """Return ``text`` with passwords, keys and quoted data masked, cut to ``limit`` characters.

    A marker says how many characters were cut.
    """
    for pattern, replacement in _IN_TEXT:
        text = pattern.sub(replacement, text)
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text) - limit} more characters)"


def redact(key: str, value: object, *, depth: int = _MAX_DEPTH) -> object:
    """Return ``value`` as it may be shown under ``key``: without secrets, and of types that JSON has.

    Of an object of any other class only the class name is shown, because the ``repr`` of a model is a whole payload.
    """
    if _SECRET_KEY.search(key) or isinstance(value, (SecretStr, SecretBytes)):
        return MASK if value else None
    match value:
        case str():
            return redact_text(value, limit=TRACEBACK_LIMIT if key in {"exception", "stack"} else TEXT_LIMIT)
        case Mapping() if depth:
            return redact_mapping({str(name): item for name, item in value.items()}, depth=depth - 1)
        case Sequence() | AbstractSet() if depth and not isinstance(value, (bytes, bytearray, memoryview)):
            return [redact(key, item, depth=depth - 1) for item in value]
        case _:
            return _scalar(value)


def _scalar(value: object) -> object:
    match value:
        case None | bool() | int() | float():
            return value
        case date():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case UUID() | PurePath():
            return str(value)
        case Enum():
            return value.name
        case BaseException():
            return redact_text(f"{type(value).__name__}: {value}")
        case _:
            return f"<{type(value).__name__}>"


def redact_mapping(values: Mapping[str, object], *, depth: int = _MAX_DEPTH) -> dict[str, object]:
    """Return ``values`` without payloads and with every value redacted."""
    return {key: redact(key, value, depth=depth) for key, value in values.items() if not _is_payload(key, value)}


def _is_payload(key: str, value: object) -> bool:
    """Return whether the name of a value says that it is a payload. A number is not a payload."""
    return key.lower() in _PAYLOAD_KEYS and not isinstance(value, (int, float))
