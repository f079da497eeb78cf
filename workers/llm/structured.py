"""Ask for structured answers and find them in what came back. Pure.

Four forms of asking, strongest first: a JSON schema with bounds that the server enforces, the schema without the
keywords that strict readers refuse, JSON mode, and the prompt alone.
"""

import json
import re
from collections.abc import Mapping, Sequence
from enum import IntEnum
from functools import lru_cache
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from workers.llm.reasoning import Found, final_part, objects_in, without_reasoning
from workers.llm.wire import TooDeepError, storable, whole_number
from workers.runtime.handler.ports import Message
from workers.runtime.handler.tokens import tokens_of
from workers.runtime.refusals import rule_of

T = TypeVar("T", bound=BaseModel)

ERRORS_QUOTED = 5
ANSWER_QUOTED = 8_000
DECLINED_CHARS = 2_000

# How a model begins to say that it will not answer; what is longer than a refusal may be an answer in prose.
_DECLINES = re.compile(
    r"\W*(?:(?:i['\u2019]?m|i am|we['\u2019]?re|we are) (?:\w+ ){0,2}(?:unable|not able)"
    r"|(?:\w+, )?(?:but )?(?:i|we) (?:(?:must|have to|need to|will|would) )?(?:\w+ly )?"
    r"(?:can['\u2019]?t|can ?not|won['\u2019]?t|will not|not be able|decline|refuse)"
    r"|as an ai\b|unfortunately,? (?:i|we)\b|ich kann (?:dir |ihnen )?(?:dabei |das |hier)?\w* ?nicht"
    r"|(?:this|that|it|your|the) (?:\w+ )?(?:would )?(?:violates?|goes against|is against|breaches|is prohibited by"
    r"|is not (?:allowed|permitted) (?:by|under))\b[^.]{0,60}\b(?:polic(?:y|ies)|guidelines?|rules|terms)\b)",
    re.IGNORECASE,
)
# An apology is a refusal if it also says that there will be no answer.
_SORRY = re.compile(
    r"\W*(?:(?:i['\u2019]?m|i am|we['\u2019]?re|we are) (?:\w+ ){0,2}(?:sorry|afraid)|sorry\b|my apologies"
    r"|(?:i|we) apologi[sz]e|es tut mir leid|je suis d\u00e9sol|d\u00e9sol\u00e9|lo siento|mi dispiace|desculpe"
    r"|sinto muito|\u5f88\u62b1\u6b49|\u62b1\u6b49|\u5bf9\u4e0d\u8d77|\u7533\u3057\u8a33)",
    re.IGNORECASE,
)
_WILL_NOT = re.compile(
    r"\b(?:can['\u2019]?t|can ?not|won['\u2019]?t|will not|would not|unable|not able|not comfortable|declin\w+|refus\w+"
    r"|violat\w+|not (?:allowed|permitted)|no (?:puedo|posso)|non posso|n\u00e3o posso|ne (?:peux|pouvons)|nicht"
    r"|kein\w*)\b|\u4e0d\u80fd|\u65e0\u6cd5|\u7121\u6cd5|\u3067\u304d\u307e\u305b\u3093",
    re.IGNORECASE,
)
# Who gives a score has answered, though not in the form asked for.
_ANSWERS = re.compile(
    r"\b(?:scores?|rating|grade|verdict)\b\W{0,5}(?:(?:is|of|would be)\W{0,3})?\d|\d\s*(?:/\s*\d|%|points\b|out of\b)",
    re.IGNORECASE,
)
# A server's schema reader refuses keywords it does not know; these say nothing about the shape.
_SAYS_NOTHING = frozenset({"title", "default"})
# What strict readers refuse in some models or versions: bounds of texts, lists and numbers.
_BOUNDS = frozenset(
    {"minLength", "maxLength", "pattern", "format", "minItems", "maxItems", "uniqueItems", "minProperties"}
    | {"maxProperties", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
)


class Rung(IntEnum):
    """One form of asking for a structured answer; a server that refuses one is asked by the next."""

    SCHEMA = 0
    PLAIN_SCHEMA = 1
    JSON = 2
    PROMPT = 3


class InvalidAnswerError(ValueError):
    """A model's answer is not what was asked; the message can be quoted to the model."""


@lru_cache(maxsize=256)
def schema_of(into: type[BaseModel]) -> Mapping[str, Any]:
    """Return the JSON schema of ``into`` in the strict form: every property required, no others allowed."""
    strict: Mapping[str, Any] = _strict(into.model_json_schema(), dropped=_SAYS_NOTHING)
    return strict


@lru_cache(maxsize=256)
def plain_schema_of(into: type[BaseModel]) -> Mapping[str, Any]:
    """Return :func:`schema_of` without the bounds of texts, lists and numbers."""
    plain: Mapping[str, Any] = _strict(into.model_json_schema(), dropped=_SAYS_NOTHING | _BOUNDS)
    return plain


def response_format(rung: Rung, into: type[BaseModel]) -> dict[str, Any] | None:
    """Return the request's ``response_format`` for a rung; the last has none."""
    match rung:
        case Rung.SCHEMA | Rung.PLAIN_SCHEMA:
            sent = schema_of(into) if rung is Rung.SCHEMA else plain_schema_of(into)
            return {"type": "json_schema", "json_schema": {"name": into.__name__, "strict": True, "schema": sent}}
        case Rung.JSON:
            return {"type": "json_object"}
        case Rung.PROMPT:
            return None


def instructed(messages: Sequence[Message], rung: Rung, into: type[BaseModel]) -> list[Message]:
    """Return the messages for a rung: if no schema is sent, the system message describes it."""
    if rung <= Rung.PLAIN_SCHEMA:
        return list(messages)
    told = f"Answer with one JSON object and nothing else. It follows this JSON Schema:\n{_schema_text(into)}"
    if messages and messages[0]["role"] == "system":
        return [{"role": "system", "content": f"{messages[0]['content']}\n\n{told}"}, *messages[1:]]
    return [{"role": "system", "content": told}, *messages]


def question_tokens(messages: Sequence[Message], rung: Rung, into: type[BaseModel]) -> int:
    """Return an upper estimate of the tokens of a question, the schema that is sent with it included."""
    schema = tokens_of(_schema_text(into)) if rung <= Rung.PLAIN_SCHEMA else 0
    return schema + sum(tokens_of(message["content"]) for message in messages)


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


def validated(text: str, into: type[T]) -> T:
    """Return the final answer in ``text`` as a valid ``into``; raise InvalidAnswerError saying what is wrong.

    The whole text if it is one JSON object. Else what the model says after its reasoning. Of several objects, those
    that stand as an answer does go before those within a sentence, and those before what is introduced as an example.
    Of those that stand alike it is the last that is valid, unless a later one has every member that is required, or
    breaks off: that is the final answer then, and it is invalid.
    """
    value = _decoded(text)
    found = [Found(value, 2)] if value is not None else list(objects_in(final_part(text), members=_members(into)))
    first_error = None
    found.sort(key=lambda one: one.rank)  # stable: of one rank, the last stays last
    for value in (one.value for one in reversed(found)):
        if value is None:  # it breaks off, and begins as an answer does
            first_error = first_error or "its last JSON object is not complete"
            break
        try:
            return into.model_validate(storable(value))
        except ValidationError as error:
            first_error = first_error or _describe(error)
            if value.keys() >= _members(into, required=True):
                first_error = _describe(error)
                break
        except TooDeepError as error:
            first_error = first_error or str(error)
    raise InvalidAnswerError(first_error or "it holds no JSON object")


def declined(text: str) -> str | None:
    """Return what a model says that refuses to answer in prose, None where it does not."""
    said = without_reasoning(text).strip()
    if "{" in said or len(said) > DECLINED_CHARS or _ANSWERS.search(said):
        return None
    is_refusal = _DECLINES.match(said) or (_SORRY.match(said) and _WILL_NOT.search(said))
    return said if is_refusal else None


@lru_cache(maxsize=256)
def _members(into: type[BaseModel], *, required: bool = False) -> frozenset[str]:
    fields = into.model_fields.items()
    return frozenset(field.alias or name for name, field in fields if field.is_required() or not required)


def _decoded(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text.removeprefix("\ufeff"), parse_int=whole_number)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _describe(error: ValidationError) -> str:
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    lines = [f"{'.'.join(map(str, problem['loc'])) or 'answer'}: {rule_of(problem['msg'])}" for problem in problems]
    more = f"; and {len(lines) - ERRORS_QUOTED} more" if len(lines) > ERRORS_QUOTED else ""
    return "; ".join(lines[:ERRORS_QUOTED]) + more


@lru_cache(maxsize=256)
def _schema_text(into: type[BaseModel]) -> str:
    return json.dumps(schema_of(into), ensure_ascii=False)


def _strict(schema: Any, *, dropped: frozenset[str], names: bool = False) -> Any:
    """Return a schema node made strict, without the keywords ``dropped``.

    ``names`` marks a mapping that has names as its keys, not keywords.
    """
    match schema:
        case dict() if names:
            return {name: _strict(node, dropped=dropped) for name, node in schema.items()}
        case {"$ref": str(ref)}:
            return {"$ref": ref}  # strict readers refuse keywords beside a reference
        case dict():
            node = {
                key: _strict(value, dropped=dropped, names=key in {"properties", "$defs"})
                for key, value in schema.items()
                if key not in dropped
            }
            if "properties" in node:
                node |= {"required": list(node["properties"]), "additionalProperties": False}
            return node
        case list():
            return [_strict(item, dropped=dropped) for item in schema]
        case _:
            return schema
