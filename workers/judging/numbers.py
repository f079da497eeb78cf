"""Types for numbers in requests and answers: finite, and never true or false. Pure."""

from typing import Annotated

from pydantic import BeforeValidator, Field


def _refuse_truth_value(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(f"must be a number, got {str(value).lower()}")  # noqa: TRY004 - pydantic catches only this
    return value


# JSON's true and false are refused, because Python would read them as 1 and 0. A number as text ("85") is accepted.
# Put it after ``Field``. Before it, the schema names the bounds "ge" and "le", which JSON Schema does not know.
NoTruthValue = BeforeValidator(_refuse_truth_value)

Finite = Annotated[float, Field(allow_inf_nan=False), NoTruthValue]
Count = Annotated[int, Field(ge=0), NoTruthValue]
Points = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False), NoTruthValue]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), NoTruthValue]
