"""How much a form asks for: longest texts and lists, whole scores. What is read may be a little different. Pure."""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, WithJsonSchema
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from workers.judging.numbers import Points
from workers.runtime.refusals import cut

# Not every server enforces a form's bounds. What is longer is paid for: up to this many times the bound is kept of it.
KEPT_TIMES = 4


@dataclass(frozen=True, slots=True)
class AtMost:
    """The most characters of a text, or items of a list, that the form asks for. Longer ones are read and cut.

    ``Annotated[list[Annotated[str, AtMost(160)]], AtMost(3)]`` asks for three texts of 160 characters.
    """

    length: int

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._kept, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        node = handler(schema)
        return {**node, "maxItems" if node.get("type") == "array" else "maxLength": self.length}

    def _kept(self, value: object) -> object:
        longest = KEPT_TIMES * self.length
        if isinstance(value, str):
            return cut(value, longest)
        return value[:longest] if isinstance(value, list) else value


# A model is asked for whole points, because a digit behind the point tells nothing. One that gives it is understood.
Score = Annotated[Points, WithJsonSchema({"type": "integer", "minimum": 0, "maximum": 100})]
