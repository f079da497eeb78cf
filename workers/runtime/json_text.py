"""Read the JSON that a person or a client wrote: a payload, a result, a body. Stricter than Python's reader. Pure."""

import json
import math
from typing import Any

from workers.runtime.refusals import quoted

_MAX_NUMBER_CHARACTERS = 20


class JsonTextError(ValueError):
    """The text is not JSON as we accept it. ``str()`` is the rule, without its subject and without the text."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise JsonTextError(f"has the key {quoted(key)} twice in one object")
        values[key] = value
    return values


def _refuse_number(word: str) -> float:
    raise JsonTextError(f"is not JSON: {word} is not a JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    return number if math.isfinite(number) else _refuse_number(quoted(digits, _MAX_NUMBER_CHARACTERS))


# For values in the middle of a text. It also raises json.JSONDecodeError, ValueError and RecursionError.
STRICT = json.JSONDecoder(parse_constant=_refuse_number, parse_float=_finite, object_pairs_hook=_object)


def read_json(text: str | bytes) -> Any:
    """Return the value of ``text`` (bytes are UTF-8). Raise JsonTextError if it is not JSON or has a key twice.

    Python would keep the last value of the key and say nothing. It would also accept NaN and infinite numbers.
    """
    try:
        text = text if isinstance(text, str) else text.decode()
    except UnicodeDecodeError as error:
        raise JsonTextError(f"is not UTF-8: {error.reason} at byte {error.start + 1}") from None
    try:
        return json.loads(text, parse_constant=_refuse_number, parse_float=_finite, object_pairs_hook=_object)
    except JsonTextError:
        raise
    except json.JSONDecodeError as error:
        place = f"column {error.colno}" if "\n" not in text.strip() else f"line {error.lineno}, column {error.colno}"
        raise JsonTextError(f"is not JSON: {error.msg} at {place}") from None
    except ValueError:  # Python's limit for the digits of an integer
        raise JsonTextError("has a number with too many digits") from None
    except RecursionError:
        raise JsonTextError("is nested too deeply") from None
