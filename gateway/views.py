"""What all answers share: views of use-cases as JSON, and lists in pages."""

from typing import Annotated, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field

T = TypeVar("T")

MAX_LIMIT, DEFAULT_LIMIT = 200, 50
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="how many items at most")]
Cursor = Annotated[
    str | None,
    Query(max_length=1_000, description="`next` of the page before, with the same filters; unset: the first page"),
]


class View(BaseModel):
    """A view of a use-case as JSON. It reads the attributes of the view; a duration is a number of seconds.

    A duration's name ends in ``_seconds``: ``oldest_wait_seconds: timedelta = Field(validation_alias="oldest_wait")``.
    """

    model_config = ConfigDict(from_attributes=True, ser_json_timedelta="float", ser_json_inf_nan="null")


class Page(View, Generic[T]):
    """A page of a list."""

    items: list[T]
    next: str | None = Field(None, description="cursor of the next page; null: there is none")
