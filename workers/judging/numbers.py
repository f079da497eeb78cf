"""Numbers as requests and models give them: finite, and never a truth value. Pure."""

from typing import Annotated

from pydantic import BeforeValidator, Field


def _refuse_truth_value(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(f"must be a number, got {str(value).lower()}")  # noqa: TRY004 - pydantic hears only this one
    return value


# JSON's true and false are not numbers, although Python counts with them. A number written as text ("85") is one.
# Put it behind ``Field``: in front of it, a schema names the bounds "ge" and "le", which JSON Schema does not know.
NoTruthValue = BeforeValidator(_refuse_truth_value)

Finite = Annotated[float, Field(allow_inf_nan=False), NoTruthValue]
Count = Annotated[int, Field(ge=0), NoTruthValue]
Points = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False), NoTruthValue]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), NoTruthValue]
