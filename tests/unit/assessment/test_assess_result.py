"""How criteria and parts become one score: weights, shares, verdicts."""

import math
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from workers.assessment.assess import AssessRequest
from workers.assessment.result import AssessmentResult, shares, verdict_of
from workers.assessment.types.composite import Part
from workers.judging.criteria import Criterion, Scale
from workers.judging.judgement import SHARE_DECIMALS, sum_known
from workers.judging.scores import weighted_mean

mean = partial(weighted_mean, decimals=SHARE_DECIMALS)
SHARES = st.floats(0, 1)
WEIGHTS = st.floats(0.01, 1_000)
PAIRS = st.lists(st.tuples(SHARES, WEIGHTS), min_size=1, max_size=20)


@given(PAIRS)
def test_mean_lies_between_its_scores(pairs):
    """This holds for all weights."""
    scores = [score for score, _ in pairs]

    assert min(scores) - 1e-4 <= mean(pairs) <= max(scores) + 1e-4


@given(PAIRS, st.floats(0.1, 10))
def test_only_the_ratio_of_weights_matters(pairs, factor):
    """Weights of 1 and 2 mean the same as weights of 10 and 20."""
    assert mean(pairs) == pytest.approx(mean([(s, w * factor) for s, w in pairs]), abs=2e-4)


@given(PAIRS, SHARES)
def test_a_better_criterion_never_lowers_the_whole(pairs, better):
    """This holds for every criterion."""
    (score, weight), *others = pairs

    raised = mean([(max(score, better), weight), *others])

    assert raised >= mean(pairs) - 1e-4


@given(st.permutations([(0.1, 1.0), (0.5, 3.0), (0.9, 0.5)]))
def test_order_does_not_matter(pairs):
    """A rubric is a set of criteria."""
    assert mean(pairs) == mean([(0.1, 1.0), (0.5, 3.0), (0.9, 0.5)])


@given(st.lists(st.none() | WEIGHTS, min_size=1, max_size=10))
def test_shares_of_what_counts_sum_to_one(weights):
    """A failed part has the share 0, and the shares of the others sum to 1."""
    counted = shares(weights)

    assert all((share == 0) if weight is None else share >= 0 for share, weight in zip(counted, weights, strict=True))
    assert sum(counted) == pytest.approx(1.0 if any(weights) else 0.0, abs=1e-3)


@given(st.floats(-1e6, 1e6), st.floats(0.01, 1e6), SHARES)
def test_points_never_leave_their_scale(lowest, width, share):
    """This includes rounding."""
    scale = Scale(lowest=lowest, highest=min(lowest + width, 1e6)) if lowest < 1e6 - 0.01 else Scale()

    assert scale.lowest <= scale.points(share) <= scale.highest


def test_points_run_along_the_scale():
    """Points on a scale from one to five."""
    scale = Scale(lowest=1, highest=5)

    assert [scale.points(share) for share in (0, 0.25, 0.5, 1)] == [1, 2, 3, 5]


@pytest.mark.parametrize(
    ("score", "verdict"),
    [
        (0, "poor"),
        (0.3999, "poor"),
        (0.4, "fair"),
        (0.6, "good"),
        (0.7999, "good"),
        (0.8, "excellent"),
        (1, "excellent"),
    ],
)
def test_verdict_names_the_band(score, verdict):
    """A score on a bound belongs to the better band."""
    assert verdict_of(score) == verdict


@pytest.mark.parametrize("pairs", [[(math.nan, 1.0)], [(0.5, math.inf)], [(math.inf, 1.0)], [(0.5, 0.0)], []])
def test_a_mean_that_is_no_number_is_an_error_and_no_score(pairs):
    """Such a mean must not be stored as a score."""
    with pytest.raises(ValueError, match="scores must be finite and weights positive"):
        mean(pairs)


RESULT = {"assessment_type": "t", "score": 0.5, "verdict": "fair", "rule_based": True}
CRITERION = {
    "name": "n", "score": 0.5, "points": 1, "lowest": 0, "highest": 2, "weight": 1, "evidence": [], "reasoning": "",
    "rule_based": True,
}  # fmt: skip


@pytest.mark.parametrize("wrong", [True, False, math.nan, math.inf, -math.inf, 10**400])
@pytest.mark.parametrize("field", ["score", "points", "lowest", "highest", "weight"])
def test_a_result_holds_numbers_only(field, wrong):
    """True, false and NaN are refused in every number of a result."""
    AssessmentResult.model_validate({**RESULT, "criteria": [CRITERION]})

    with pytest.raises(ValidationError):
        AssessmentResult.model_validate({**RESULT, "criteria": [{**CRITERION, field: wrong}]})


@pytest.mark.parametrize(
    ("form", "values"),
    [
        (Criterion, {"name": "n", "weight": True}),
        (Scale, {"lowest": False}),
        (Scale, {"highest": True, "lowest": 0}),
        (AssessmentResult, {**RESULT, "score": True}),
        (AssessmentResult, {**RESULT, "prompt_tokens": True}),
        (Part, {"assessmentType": "llm_rubric", "weight": True}),
        (AssessRequest, {"assessment_id": "a", "request_data": {}, "timeout_seconds": True}),
    ],
)
def test_true_is_no_number_anywhere(form, values):
    """True is refused in weights, bounds, scores, counts and times."""
    with pytest.raises(ValidationError, match=r"must be a number, got (true|false)"):
        form.model_validate(values)


def test_tokens_are_unknown_only_if_no_count_is_known():
    """An unknown count is not zero."""
    assert sum_known([None, None]) is None
    assert sum_known([None, 3, 4]) == 7
    assert sum_known([]) is None
