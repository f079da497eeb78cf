"""Compute weighted scores. They are never taken from a model. Pure."""

import math
from collections.abc import Iterable

from workers.runtime.refusals import quoted

OVERALL_TOLERANCE = 5.0


def weighted_mean(scores: Iterable[tuple[float, float]], *, decimals: int) -> float:
    """Return the mean of (score, weight) pairs, rounded to ``decimals``; weights are positive.

    Raise ValueError if the mean is not a finite number, because it would be stored as a score.
    """
    pairs = list(scores)
    weights = sum(weight for _, weight in pairs)
    mean = sum(score * weight for score, weight in pairs) / weights if weights else math.nan
    if not math.isfinite(mean):
        raise ValueError(f"scores must be finite and weights positive, got {quoted(pairs)}")
    return round(mean, decimals)


def is_off(claimed: float, computed: float) -> bool:
    """Tell whether a model's own overall differs from ours by more than 5 of 100 points."""
    return abs(claimed - computed) > OVERALL_TOLERANCE
