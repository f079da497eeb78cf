"""What an assessment says, and how parts become a whole. Pure."""

import math
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from workers.assessment.numbers import Count, Finite, NoTruthValue
from workers.runtime.refusals import quoted

# What the offline evaluator writes beside its answers; shown wherever its scores are.
RULE_BASED = "rule-based, not an AI judgement"

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), NoTruthValue]
Verdict = Literal["excellent", "good", "fair", "poor", "invalid"]
_BANDS: tuple[tuple[float, Verdict], ...] = ((0.8, "excellent"), (0.6, "good"), (0.4, "fair"))


class CriterionResult(BaseModel):
    """One criterion: ``score`` from 0 to 1, the same as ``points`` on the criterion's own scale, and why.

    ``rule_based`` is true where a rule decided and no model.
    """

    name: str
    score: Share
    points: Finite
    lowest: Finite
    highest: Finite
    weight: Finite
    evidence: list[str]
    reasoning: str
    rule_based: bool


class SchemaError(BaseModel):
    """One place where a document breaks its schema: ``path`` is a JSON path, ``rule`` the keyword that was broken."""

    path: str
    rule: str
    message: str


class SchemaCheck(BaseModel):
    """Whether a document is valid; ``errors`` are all there are, but for those beyond the first hundred."""

    valid: bool
    against: str
    error_count: Count
    errors: list[SchemaError]


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


def weighted_mean(scores: Iterable[tuple[float, float]]) -> float:
    """Return the mean of (score, weight) pairs to four decimals; scores lie from 0 to 1, weights are positive.

    Raises ValueError where that is no number: the mean of something that is none would be stored as a score.
    """
    pairs = list(scores)
    weights = sum(weight for _, weight in pairs)
    mean = sum(score * weight for score, weight in pairs) / weights if weights else math.nan
    if not math.isfinite(mean):
        raise ValueError(f"scores must be finite and weights positive, got {quoted(pairs)}")
    return min(max(round(mean, 4), 0.0), 1.0)


def overall(criteria: Iterable[CriterionResult]) -> float:
    """Return the score of these criteria by their weights."""
    return weighted_mean((one.score, one.weight) for one in criteria)


def verdict_of(score: float) -> Verdict:
    """Return the band of a score: excellent from 0.8, good from 0.6, fair from 0.4, poor below."""
    return next((verdict for least, verdict in _BANDS if score >= least), "poor")


def shares(weights: Iterable[float | None]) -> list[float]:
    """Return what each weight counts for once those that are None are left out: the others' shares sum to 1."""
    given = list(weights)
    total = sum(weight for weight in given if weight is not None)
    return [0.0 if weight is None else round(weight / total, 4) for weight in given]


def total(counts: Iterable[int | None]) -> int | None:
    """Return the sum of what is known, or None where nothing is."""
    known = [count for count in counts if count is not None]
    return sum(known) if known else None
