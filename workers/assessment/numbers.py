"""Numbers as requests and models give them: finite, and never a truth value. Pure."""

from typing import Annotated

from pydantic import BeforeValidator, Field


def no_truth_value(value: object) -> object:
    """Return ``value`` unless it is true or false, which Python takes for 1 and 0: no score, no weight, no bound."""
    if isinstance(value, bool):
        raise ValueError(f"must be a number, got {str(value).lower()}")  # noqa: TRY004 - pydantic hears only this one
    return value


NoTruthValue = BeforeValidator(no_truth_value)
Finite = Annotated[float, Field(allow_inf_nan=False), NoTruthValue]
Count = Annotated[int, Field(ge=0), NoTruthValue]
