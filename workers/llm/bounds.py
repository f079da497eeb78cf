"""How many tokens an answer may take, computed from the form that it must have. Pure.

Every text of a form has a longest length and every list a greatest number of items, so the longest valid answer is
known. A form that leaves something free is counted with the defaults below.
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from pydantic import BaseModel

# Texts of prose have 3 to 5 characters a token in languages with spaces; escapes and rare words take more.
CHARACTERS_PER_TOKEN = 2
# The colon or the comma, the line's end and the indentation of a member or an item that stands on its own line.
TOKENS_PER_LINE = 5
MARGIN, MIN_TOKENS = 1.1, 64
# For what a form does not bound. A form that leaves anything free gets at most MAX_TOKENS_IF_UNBOUNDED tokens.
FREE_TEXT, FREE_ITEMS, FREE_DIGITS = 1_000, 10, 20
MAX_TOKENS_IF_UNBOUNDED = 8_192
MAX_DEPTH = 16
# The longest text of a format; every other format is free text.
_FORMATS = {"date": 10, "time": 21, "date-time": 32, "uuid": 36, "ipv4": 15, "ipv6": 45}


@lru_cache(maxsize=256)
def bound_of(into: type[BaseModel]) -> int:
    """Return the most tokens that a valid answer in the form ``into`` needs, whitespace and a margin included."""
    schema = into.model_json_schema()
    counted = _Counter(schema.get("$defs", {}))
    tokens = counted.tokens(schema, MAX_DEPTH)
    bound = max(MIN_TOKENS, int(tokens * MARGIN) + 1)
    return min(bound, MAX_TOKENS_IF_UNBOUNDED) if counted.free else bound


class _Counter:
    """Counts the tokens of the longest value that a schema allows. ``free``: something in it has no bound."""

    def __init__(self, definitions: Mapping[str, Any]) -> None:
        self._definitions = definitions
        self.free = False

    def tokens(self, schema: Any, depth: int) -> float:
        if not isinstance(schema, Mapping) or depth == 0:
            return self._of_free_text()
        match schema:
            case {"$ref": str(ref)}:
                return self.tokens(self._definitions.get(ref.rpartition("/")[2]), depth - 1)
            case {"const": value}:
                return _of_text(json.dumps(value))
            case {"enum": [*values]} if values:
                return max(_of_text(json.dumps(value)) for value in values)
            case {"anyOf": [*choices]} | {"oneOf": [*choices]} if choices:
                return max(self.tokens(choice, depth - 1) for choice in choices)
            case {"allOf": [*parts]} if parts:
                return sum(self.tokens(part, depth - 1) for part in parts)
        return self._of_type(schema, depth)

    def _of_type(self, schema: Mapping[str, Any], depth: int) -> float:
        match schema.get("type"):
            case "object" if "properties" in schema:
                members = schema["properties"].items()
                inside = (_of_text(name) + TOKENS_PER_LINE + self.tokens(one, depth - 1) for name, one in members)
                return TOKENS_PER_LINE + sum(inside)
            case "array":
                return TOKENS_PER_LINE + self._items(schema) * (TOKENS_PER_LINE + self._of_item(schema, depth))
            case "string":
                return self._of_string(schema)
            case "integer" | "number":
                return self._of_number(schema)
            case "boolean" | "null":
                return 1
        return self._of_free_text()

    def _items(self, schema: Mapping[str, Any]) -> int:
        most = schema.get("maxItems")
        if isinstance(most, int):
            return most
        self.free = True
        return FREE_ITEMS

    def _of_item(self, schema: Mapping[str, Any], depth: int) -> float:
        if isinstance(places := schema.get("prefixItems"), list) and places:
            return max(self.tokens(place, depth - 1) for place in places)
        return self.tokens(schema.get("items"), depth - 1)

    def _of_string(self, schema: Mapping[str, Any]) -> float:
        most = schema.get("maxLength", _FORMATS.get(schema.get("format", "")))
        return 1 + most / CHARACTERS_PER_TOKEN if isinstance(most, int) else self._of_free_text()

    def _of_number(self, schema: Mapping[str, Any]) -> float:
        """Return one token per digit: tokenizers differ in how they group them."""
        if schema.get("type") == "number":
            return FREE_DIGITS
        ends = [schema.get(name) for name in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")]
        known = [len(str(int(end))) for end in ends if isinstance(end, (int, float))]
        return max(known) if known else FREE_DIGITS

    def _of_free_text(self) -> float:
        self.free = True
        return FREE_TEXT / CHARACTERS_PER_TOKEN


def _of_text(text: str) -> float:
    return 1 + len(text) / CHARACTERS_PER_TOKEN
