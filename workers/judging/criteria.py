"""The criteria of a judgement, with scales and weights. Pure."""

from collections.abc import Iterable
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from workers.judging.numbers import NoTruthValue

MAX_CRITERIA = 20
MAX_NAME = 80
MIN_WEIGHT, MAX_WEIGHT = 0.01, 1_000.0

Weight = Annotated[float, Field(ge=MIN_WEIGHT, le=MAX_WEIGHT, allow_inf_nan=False), NoTruthValue]
Bound = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False), NoTruthValue]
CriterionName = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_NAME, pattern=r"^[^\r\n]*$")
]


class Scale(BaseModel):
    """The ends of a criterion's scale."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lowest: Bound = 0.0
    highest: Bound = 100.0

    @model_validator(mode="after")
    def _ascends(self) -> Self:
        if self.lowest >= self.highest:
            raise ValueError(f"must ascend, got lowest {self.lowest:g} and highest {self.highest:g}")
        return self

    def points(self, share: float) -> float:
        """Return the points for a ``share`` from 0 (lowest) to 1 (highest), with two decimals."""
        return min(max(round(self.lowest + share * (self.highest - self.lowest), 2), self.lowest), self.highest)


class Criterion(BaseModel):
    """One criterion. Only the ratio of weights matters."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: CriterionName
    description: str = ""
    scale: Scale = Scale()
    weight: Weight = 1.0


def key_of(name: str) -> str:
    """Return the key by which two names are the same, because models change the case and the spaces of names."""
    return " ".join(name.casefold().split())


def first_repeated(names: Iterable[str]) -> str | None:
    """Return the first name that occurs more than once, or None."""
    given = list(names)
    keys = [key_of(name) for name in given]
    return next((name for name in given if keys.count(key_of(name)) > 1), None)
