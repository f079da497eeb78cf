"""The result of an assessment, and how parts are combined. Pure."""

from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, Field

from workers.judging.json_schema import SchemaCheck
from workers.judging.judgement import CriterionResult
from workers.judging.numbers import Count, Finite, Share

Verdict = Literal["excellent", "good", "fair", "poor", "invalid"]
_BANDS: tuple[tuple[float, Verdict], ...] = ((0.8, "excellent"), (0.6, "good"), (0.4, "fair"))


class PartResult(BaseModel):
    """One part of a composite: its result, or its error.

    ``weight`` is the requested weight. ``share`` is the part's share of the overall score: 0 for a failed part, and the
    shares of the others sum to 1.
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

    ``score`` (0 to 1) is the weighted mean of the criteria, or of a composite's parts. It is computed here, not taken
    from a model. ``verdict`` names the band of the score, or is ``invalid`` if the document breaks its schema.
    ``flags`` are notes that a reader should see first. ``note`` says if no AI judged. Tokens are None if unknown.
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
    return next((verdict for lowest, verdict in _BANDS if score >= lowest), "poor")


def shares(weights: Iterable[float | None]) -> list[float]:
    """Return the share of each weight. A weight of None has the share 0; the shares of the others sum to 1."""
    given = list(weights)
    total = sum(weight for weight in given if weight is not None)
    return [0.0 if weight is None else round(weight / total, 4) for weight in given]
