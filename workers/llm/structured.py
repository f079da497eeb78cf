"""Ask for structured answers and find them in what came back. Pure.

Three forms of asking, strongest first: a JSON schema the server enforces, JSON mode, and the prompt alone.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum
from functools import lru_cache
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from workers.llm.wire import storable
from workers.runtime.ports import Message

T = TypeVar("T", bound=BaseModel)

ERRORS_QUOTED = 5
ANSWER_QUOTED = 8_000
OBJECTS_TRIED = 64

_FENCE = re.compile(r"```[\w-]*\s*\n?(.*?)```", re.DOTALL)
# A server's schema reader refuses keywords it does not know; these say nothing about the shape.
_SAYS_NOTHING = frozenset({"title", "default"})


class Rung(IntEnum):
    """One form of asking for a structured answer; a server that refuses one is asked by the next."""

    SCHEMA = 0
    JSON = 1
    PROMPT = 2


class InvalidAnswerError(ValueError):
    """A model's answer is not what was asked; the message can be quoted to the model."""


@lru_cache(maxsize=256)
def schema_of(into: type[BaseModel]) -> Mapping[str, Any]:
    """Return the JSON schema of ``into`` in the strict form: every property required, no others allowed."""
    strict: Mapping[str, Any] = _strict(into.model_json_schema())
    return strict


def response_format(rung: Rung, into: type[BaseModel]) -> dict[str, Any] | None:
    """Return the request's ``response_format`` for a rung; the last has none."""
    match rung:
        case Rung.SCHEMA:
            schema = {"name": into.__name__, "strict": True, "schema": schema_of(into)}
            return {"type": "json_schema", "json_schema": schema}
        case Rung.JSON:
            return {"type": "json_object"}
        case Rung.PROMPT:
            return None


def instructed(messages: Sequence[Message], rung: Rung, into: type[BaseModel]) -> list[Message]:
    """Return the messages for a rung: below the first, the schema is told in the system message."""
    if rung is Rung.SCHEMA:
        return list(messages)
    told = f"Answer with one JSON object and nothing else. It follows this JSON Schema:\n{_schema_text(into)}"
    if messages and messages[0]["role"] == "system":
        return [{"role": "system", "content": f"{messages[0]['content']}\n\n{told}"}, *messages[1:]]
    return [{"role": "system", "content": told}, *messages]


def reask(messages: Sequence[Message], answer: str, error: InvalidAnswerError, into: type[BaseModel]) -> list[Message]:
    """Return the messages that ask once more, quoting the error.

    The invalid answer stands between the two questions because chat templates refuse two user turns in a row.
    """
    again = (
        f"That answer is invalid: {error}\n"
        f"Answer again with one JSON object and nothing else. It follows this JSON Schema:\n{_schema_text(into)}"
    )
    said = without_reasoning(answer).strip()[:ANSWER_QUOTED] or "(no answer)"
    return [*messages, {"role": "assistant", "content": said}, {"role": "user", "content": again}]


def validated(text: str, into: type[T], *, truncated: bool = False) -> T:
    """Return the first JSON object in ``text`` that is a valid ``into``; raise InvalidAnswerError saying what is wrong.

    Looks in the whole text, then past a reasoning block in code fences, then between prose.
    """
    first_error = None
    for value in _objects(text):
        try:
            return into.model_validate(storable(value))
        except ValidationError as error:
            first_error = first_error or _describe(error)
    if truncated:
        raise InvalidAnswerError("it was cut off at the length limit before it was complete; be much shorter")
    raise InvalidAnswerError(first_error or "it holds no JSON object")


def without_reasoning(text: str) -> str:
    """Return what follows a model's ``<think>`` block; nothing if the block never ends."""
    before, closed, after = text.rpartition("</think>")
    if closed:
        return after
    return "" if text.lstrip().startswith("<think>") else before + after


def _objects(text: str) -> Iterator[dict[str, Any]]:
    whole = _decoded(text)
    if whole is not None:
        yield whole
        return
    answer = without_reasoning(text)
    for fence in _FENCE.finditer(answer):
        if (fenced := _decoded(fence[1])) is not None:
            yield fenced
    yield from _embedded(answer)


def _embedded(text: str) -> Iterator[dict[str, Any]]:
    decoder, start = json.JSONDecoder(), text.find("{")
    for _ in range(OBJECTS_TRIED):
        if start < 0:
            return
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            end = start + 1
        else:
            yield value
        start = text.find("{", end)


def _decoded(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _describe(error: ValidationError) -> str:
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    lines = [f"{'.'.join(map(str, problem['loc'])) or 'answer'}: {problem['msg']}" for problem in problems]
    more = f"; and {len(lines) - ERRORS_QUOTED} more" if len(lines) > ERRORS_QUOTED else ""
    return "; ".join(lines[:ERRORS_QUOTED]) + more


@lru_cache(maxsize=256)
def _schema_text(into: type[BaseModel]) -> str:
    return json.dumps(schema_of(into), ensure_ascii=False)


def _strict(schema: Any, *, names: bool = False) -> Any:
    """Return a schema node made strict; ``names`` marks a mapping whose keys are names, not keywords."""
    match schema:
        case dict() if names:
            return {name: _strict(node) for name, node in schema.items()}
        case {"$ref": str(ref)}:
            return {"$ref": ref}  # strict readers refuse keywords beside a reference
        case dict():
            node = {
                key: _strict(value, names=key in {"properties", "$defs"})
                for key, value in schema.items()
                if key not in _SAYS_NOTHING
            }
            if "properties" in node:
                node |= {"required": list(node["properties"]), "additionalProperties": False}
            return node
        case list():
            return [_strict(item) for item in schema]
        case _:
            return schema
