"""Check a document against a JSON Schema. References are never fetched."""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any, Protocol

import jsonschema_rs
from jsonschema_rs import RegexOptions, ValidationError
from pydantic import BaseModel

from workers.judging.numbers import Count
from workers.runtime.handler.errors import Permanent, one_line
from workers.runtime.refusals import cut

MAX_ERRORS_LISTED = 100
MAX_MESSAGE_CHARACTERS = 300


class SchemaError(BaseModel):
    """One error: ``path`` is the JSON path in the document, ``rule`` the schema keyword that it breaks."""

    path: str
    rule: str
    message: str


class SchemaCheck(BaseModel):
    """Whether a document is valid. ``errors`` are the first 100 errors, ``error_count`` counts all."""

    valid: bool
    against: str
    error_count: Count
    errors: list[SchemaError]


class Validator(Protocol):
    """The method that the validators of all drafts have."""

    def iter_errors(self, instance: Any) -> Any:
        """Yield every error, in the order of the schema."""


def check(document: Mapping[str, Any], schema: str, *, against: str, name: str) -> SchemaCheck:
    """Check ``document`` against ``schema`` (JSON text); raise Permanent if the schema cannot be used.

    ``against`` is the schema's name in the result, ``name`` its name in an error. Formats are checked. Patterns are
    matched in linear time, so look-around and back references are not allowed. A reference to anything outside the
    schema is refused.
    """
    found = iter(_compile(schema, name).iter_errors(document))
    errors = [_to_schema_error(error) for error in islice(found, MAX_ERRORS_LISTED)]
    more = sum(1 for _ in found)
    shown = against[:MAX_MESSAGE_CHARACTERS]
    return SchemaCheck(valid=not errors, against=shown, error_count=len(errors) + more, errors=errors)


def json_path(parts: Sequence[str | int]) -> str:
    """Return the steps as a JSON path like ``$.packages[0].name``; names are quoted if necessary."""
    steps = [
        f"[{part}]" if isinstance(part, int) else f".{part}" if part.isidentifier() else f"[{json.dumps(part)}]"
        for part in parts
    ]
    return "".join(["$", *steps])


@lru_cache(maxsize=16)
def _compile(schema: str, name: str) -> Validator:
    try:
        return jsonschema_rs.validator_for(
            json.loads(schema),
            retriever=_refuse,
            validate_formats=True,
            pattern_options=RegexOptions(size_limit=1 << 20),
        )
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        # The text of a ValidationError has many lines and the value; its message is one line.
        said = getattr(error, "message", None) or str(error)
        raise Permanent(f"{name} is not usable as a JSON Schema: {_shorten(said)}") from None


def _refuse(uri: str) -> Any:
    raise LookupError(f"references are never fetched, put {uri!r} into the schema's $defs")


def _to_schema_error(error: ValidationError) -> SchemaError:
    return SchemaError(path=json_path(error.instance_path), rule=error.kind.name, message=_shorten(error.message))


def _shorten(text: str) -> str:
    return cut(one_line(text), MAX_MESSAGE_CHARACTERS)
