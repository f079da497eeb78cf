"""What the database keeps of a payload's model: the keywords that it checks, by field, and nothing else."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import BaseModel, Field

from models.operations import IngestJob
from models.scoring import ScoringJob
from workers.runtime.handler.sql_door import SqlDoor, describe_door


class Colour(StrEnum):
    RED = "red"


class Part(BaseModel):
    name: str


CASES: list[tuple[Any, Any, dict[str, Any]]] = [
    (str, ..., {"type": ["string"]}),
    (UUID, ..., {"type": ["string"], "format": "uuid"}),
    (datetime | None, None, {"type": ["string", "null"], "format": "date-time", "default": None}),
    (
        Annotated[str, Field(min_length=1, max_length=3, pattern="x")],
        ...,
        {"type": ["string"], "minLength": 1, "maxLength": 3},
    ),
    (Annotated[int, Field(ge=1, le=9)], 5, {"type": ["integer"], "minimum": 1, "maximum": 9, "default": 5}),
    (Literal["a", "b"], "a", {"type": ["string"], "enum": ["a", "b"], "default": "a"}),
    (Colour, ..., {"type": ["string"], "enum": ["red"]}),
    (dict[str, Any], ..., {"type": ["object"]}),
    (list[int] | None, None, {"type": ["array", "null"], "default": None}),
    (Part, ..., {"type": ["object"]}),
    (int | str, ..., {}),
]  # fmt: skip


@pytest.mark.parametrize(("type_", "default", "rules"), CASES)
def test_a_field_has_the_keywords_that_sql_checks(type_, default, rules):
    """A type with several choices is left to the claim."""
    payload: Any = type("Payload", (BaseModel,), {"__annotations__": {"prompt": type_}, "prompt": default})

    [field] = describe_door(SqlDoor(), payload, ScoringJob)["fields"]

    assert field == {"name": "prompt", "column": "prompt", **rules}


def test_columns_are_those_of_the_table():
    """Of fields, options and results; what may differ in a repeat is marked."""

    class Payload(BaseModel):
        project_id: UUID
        upload_id: UUID | None = None

    door = describe_door(SqlDoor(results=("saved_count",)), Payload, IngestJob)

    assert [field["column"] for field in door["fields"]] == ["projectId", "uploadId"]
    assert [field.get("may_differ", False) for field in door["fields"]] == [False, True]
    assert door["results"] == {"saved_count": "savedCount"}
    assert door["options"] == {"due_at": "due_at"}


def test_a_default_that_only_python_can_make_is_refused():
    """SQL could not give it to a new row."""

    class Payload(BaseModel):
        prompt: str = Field(default_factory=str)

    with pytest.raises(TypeError, match=r"must have a constant default or none, got 'prompt'$"):
        describe_door(SqlDoor(), Payload, ScoringJob)
