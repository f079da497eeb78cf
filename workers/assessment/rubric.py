"""What something is judged by: criteria with scales and weights, as a request gives them. Pure."""

import json
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from models.scoring import DEFAULT_MODEL
from workers.assessment.numbers import NoTruthValue

MAX_CRITERIA = 20
CONTENT_BYTES = 60_000  # about 20,000 tokens

Weight = Annotated[float, Field(ge=0.01, le=1_000, allow_inf_nan=False), NoTruthValue]
Bound = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False), NoTruthValue]


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
        """Return the point of the scale that lies ``share`` (0 to 1) of the way up, to two decimals."""
        return min(max(round(self.lowest + share * (self.highest - self.lowest), 2), self.lowest), self.highest)


class Criterion(BaseModel):
    """One thing to judge by. Only the ratio of weights matters."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=80, pattern=r"^[^\r\n]*$")]
    description: Annotated[str, StringConstraints(max_length=2_000)] = ""
    scale: Scale = Scale()
    weight: Weight = 1.0


def _distinct(criteria: tuple[Criterion, ...]) -> tuple[Criterion, ...]:
    keys = [key_of(criterion.name) for criterion in criteria]
    if twice := next((one.name for one in criteria if keys.count(key_of(one.name)) > 1), None):
        raise ValueError(f"must name each criterion once, got {twice!r} twice")
    return criteria


def _readable(content: Any) -> Any:
    """Refuse what no model could be shown: nothing, or more than it could read. Nothing is cut silently."""
    if content in (None, [], {}) or (isinstance(content, str) and not content.strip()):
        raise ValueError(f"must not be empty, got {content!r}")
    try:
        size = len(json.dumps(content, ensure_ascii=False).encode("utf-8", "replace"))
    except RecursionError:
        raise ValueError("must not be nested so deeply, got more than a thousand levels") from None
    if size > CONTENT_BYTES:
        raise ValueError(f"must have at most {CONTENT_BYTES:,} bytes as JSON, got {size:,}")
    return content


Criteria = Annotated[tuple[Criterion, ...], Field(min_length=1, max_length=MAX_CRITERIA), AfterValidator(_distinct)]
Content = Annotated[str | dict[str, Any] | list[Any], AfterValidator(_readable)]
Document = Annotated[dict[str, Any], AfterValidator(_readable)]


class JudgeOptions(BaseModel):
    """How the model is asked: which one, and whether each criterion gets a call of its own."""

    model_config = ConfigDict(extra="forbid")

    model: Annotated[str, StringConstraints(min_length=1, max_length=50, pattern=r"^[A-Za-z0-9][\w.:/@+-]*$")] = (
        DEFAULT_MODEL
    )
    separately: bool = False


def key_of(name: str) -> str:
    """Return what makes two names the same: models change case and spaces of a name they are told to keep."""
    return " ".join(name.casefold().split())
