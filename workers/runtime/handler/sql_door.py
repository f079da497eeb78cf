"""Describe the payload of a stage that is open to SQL as the database keeps it (``runtime.stages.sql_door``). Pure.

The database checks only some keywords of the payload's JSON Schema: type, format (uuid, date-time), enum, minLength,
maxLength, minimum and maximum. The rest is checked when a worker claims the job, by the payload's own model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from sqlalchemy import inspect

from models.lifecycle import Job

_KEYWORDS = ("format", "enum", "minLength", "maxLength", "minimum", "maximum", "default")
_FORMATS = frozenset({"uuid", "date-time"})


@dataclass(frozen=True, slots=True)
class SqlDoor:
    """A stage that ``runtime.enqueue`` accepts; ``results`` are the attributes that ``runtime.result`` returns."""

    results: tuple[str, ...] = ()


def describe_door(door: SqlDoor, payload: type[BaseModel], of: type[Job]) -> dict[str, Any]:
    """Return what the revision that opens a stage writes into ``runtime.stages.sql_door``.

    Raise TypeError for an optional field without a constant default, because SQL could not give it one.
    """
    column = {attribute.key: attribute.columns[0].name for attribute in inspect(of).column_attrs}
    schema = payload.model_json_schema()
    required = set(schema.get("required", ()))
    fields = []
    for name, rules in schema["properties"].items():
        field = {"name": name, "column": column[name], **_rules(rules, schema.get("$defs", {}))}
        if name in required:
            field.pop("default", None)
        elif "default" not in field:
            raise TypeError(
                f"a field of a stage that is open to SQL must have a constant default or none, got {name!r}"
            )
        field |= {
            key: True for key, names in (("grows", of.__may_grow__), ("may_differ", of.__may_differ__)) if name in names
        }
        fields.append(field)
    options = {name: column[name] for name in ("due_at",)}
    return {"fields": fields, "options": options, "results": {name: column[name] for name in door.results}}


def _rules(rules: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords that the database knows. ``X or null`` becomes one set of rules."""
    nullable = False
    found = dict(rules)
    if "anyOf" in found:
        choices = [one for one in found.pop("anyOf") if one.get("type") != "null"]
        nullable = True
        if len(choices) != 1:
            return {key: found[key] for key in ("default",) if key in found}
        found = {**choices[0], **found}
    if (reference := found.pop("$ref", None)) is not None:
        found = {**definitions[reference.rpartition("/")[2]], **found}
    kept = {key: found[key] for key in _KEYWORDS if key in found and (key != "format" or found[key] in _FORMATS)}
    if (kind := found.get("type")) is not None:
        kept["type"] = [kind, "null"] if nullable else [kind]
    return kept
