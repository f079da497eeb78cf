"""Check a document against a JSON Schema. Nothing is ever fetched."""

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

ERRORS_LISTED = 100
MESSAGE_WIDTH = 300


class SchemaError(BaseModel):
    """One place where a document breaks its schema: ``path`` is a JSON path, ``rule`` the keyword that was broken."""

    path: str
    rule: str
    message: str


class SchemaCheck(BaseModel):
    """Whether a document is valid; ``errors`` are the first hundred, ``error_count`` is the number of all."""

    valid: bool
    against: str
    error_count: Count
    errors: list[SchemaError]


class Validator(Protocol):
    """What a draft's validator does."""

    def iter_errors(self, instance: Any) -> Any:
        """Yield every error, in the order of the schema."""


def check(document: Mapping[str, Any], schema: str, *, against: str, name: str) -> SchemaCheck:
    """Check ``document`` against ``schema``, which is JSON text; raise Permanent if that is no schema we can use.

    ``against`` is what the result calls the schema, ``name`` is what an error calls it. Formats count as rules,
    patterns are matched in linear time (so without look-around and back references), and a reference to anything
    outside of the schema is refused.
    """
    found = iter(_compiled(schema, name).iter_errors(document))
    errors = [_read(error) for error in islice(found, ERRORS_LISTED)]
    more = sum(1 for _ in found)
    return SchemaCheck(valid=not errors, against=against[:MESSAGE_WIDTH], error_count=len(errors) + more, errors=errors)


def json_path(parts: Sequence[str | int]) -> str:
    """Return the JSON path of a place: ``$.packages[0].name``; names that need quotes get them."""
    steps = [
        f"[{part}]" if isinstance(part, int) else f".{part}" if part.isidentifier() else f"[{json.dumps(part)}]"
        for part in parts
    ]
    return "".join(["$", *steps])


@lru_cache(maxsize=16)
def _compiled(schema: str, name: str) -> Validator:
    try:
        return jsonschema_rs.validator_for(
            json.loads(schema),
            retriever=_refuse,
            validate_formats=True,
            pattern_options=RegexOptions(size_limit=1 << 20),
        )
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        # A ValidationError's text is many lines with the value in them; its message is one.
        said = getattr(error, "message", None) or str(error)
        raise Permanent(f"{name} is not usable as a JSON Schema: {_short(said)}") from None


def _refuse(uri: str) -> Any:
    raise LookupError(f"references are never fetched, put {uri!r} into the schema's $defs")


def _read(error: ValidationError) -> SchemaError:
    return SchemaError(path=json_path(error.instance_path), rule=error.kind.name, message=_short(error.message))


def _short(text: str) -> str:
    return cut(one_line(text), MESSAGE_WIDTH)
