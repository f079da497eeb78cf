"""What an assessment says, and how parts become a whole. Pure."""

from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, Field

from workers.judging.json_schema import SchemaCheck
from workers.judging.judgement import CriterionResult
from workers.judging.numbers import Count, Finite, Share

Verdict = Literal["excellent", "good", "fair", "poor", "invalid"]
_BANDS: tuple[tuple[float, Verdict], ...] = ((0.8, "excellent"), (0.6, "good"), (0.4, "fair"))


class PartResult(BaseModel):
    """One part of a composite: its result, or the error for which it has none.

    ``weight`` is as asked, ``share`` what it counts for in the overall score: 0 for a failed part, and the shares of
    the others sum to 1.
    """

    name: str
    assessment_type: str
    status: Literal["completed", "failed"]
    weight: Finite
    share: Share
    error: str | None
    result: "AssessmentResult | None"


class AssessmentResult(BaseModel):
    """The value of ``result_data``.

    ``score`` (0 to 1) is the mean of the criteria, or of a composite's parts, by their weights, computed here and not
    trusted from a model. ``verdict`` names its band, or is ``invalid`` where a schema was broken. ``flags`` are notes
    that a reader should see first. ``note`` says so where no AI judged. Tokens are None where a server told none.
    """

    assessment_type: str
    score: Share
    verdict: Verdict
    criteria: list[CriterionResult] = Field(default_factory=list)
    schema_check: SchemaCheck | None = None
    parts: list[PartResult] = Field(default_factory=list)
    flags: list[str] = Field(default_factory=list)
    model: str | None = None
    rule_based: bool
    note: str | None = None
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None


def verdict_of(score: float) -> Verdict:
    """Return the band of a score: excellent from 0.8, good from 0.6, fair from 0.4, poor below."""
    return next((verdict for least, verdict in _BANDS if score >= least), "poor")


def shares(weights: Iterable[float | None]) -> list[float]:
    """Return what each weight counts for once those that are None are left out: the others' shares sum to 1."""
    given = list(weights)
    total = sum(weight for weight in given if weight is not None)
    return [0.0 if weight is None else round(weight / total, 4) for weight in given]
