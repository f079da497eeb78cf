"""The score: every criterion once, the rubric's weights, and an overall that Gristmill computes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from workers.judging.answers import answer_to
from workers.judging.criteria import Criterion
from workers.judging.scores import weighted_mean
from workers.scoring.score import ProfileScore, ScoreAnswer, reconcile

CRITERIA = (Criterion(name="evidence", weight=3), Criterion(name="clarity", weight=1))
FORM = answer_to(["evidence", "clarity"], form=ScoreAnswer)


def part(name, score, **more):
    return {"name": name, "score": score, "evidence": ["summary"], "reasoning": "so"} | more


def answer(*parts, overall=50, flags=()):
    return FORM.model_validate({"overall": overall, "criteria": list(parts), "flags": list(flags)})


def test_overall_is_the_rubrics_weighted_mean():
    """Neither a weight nor the overall is taken from the model."""
    given = answer(part("clarity", 20, weight=1_000), part("evidence", 81), overall=99)

    score = reconcile(given, CRITERIA, model="m")

    assert score.overall == 65.8
    assert [(one.name, one.weight) for one in score.criteria] == [("evidence", 3), ("clarity", 1)]
    assert score.flags == ["model's own overall was 99"]
    assert score.model == "m"


def test_small_difference_of_the_models_overall_is_not_flagged():
    """A rounding difference is not a reason for a flag."""
    assert reconcile(answer(part("evidence", 50), part("clarity", 50), overall=54), CRITERIA, model="m").flags == []


def test_flags_of_both_sides_are_kept_once():
    """The score has the flags of the model and of Gristmill, each once."""
    given = answer(part("evidence", 50), part("clarity", 50), flags=["thin", "profile truncated"])

    assert reconcile(given, CRITERIA, model="m", flags=["profile truncated"]).flags == ["thin", "profile truncated"]


def test_names_are_matched_without_regard_to_case_and_spaces():
    """An answer counts if the model changed the case of a name. The score has the rubric's spelling."""
    given = answer(part("Evidence ", 50), part("CLARITY", 60))

    assert [one.name for one in reconcile(given, CRITERIA, model="m").criteria] == ["evidence", "clarity"]


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([part("evidence", 1)], "missing: 'clarity'; unknown or doubled: none"),
        ([part("evidence", 1), part("clarity", 1), part("style", 1)], "missing: none; unknown or doubled: 'style'"),
        ([part("evidence", 1), part("evidence", 2), part("clarity", 1)], "unknown or doubled: 'evidence'"),
        ([], "missing: 'evidence', 'clarity'"),
    ],
)
def test_missing_or_unknown_criterion_is_an_error_with_a_message_for_the_model(parts, said):
    """An incomplete answer is refused."""
    with pytest.raises(ValidationError, match=said):
        answer(*parts)


@pytest.mark.parametrize("points", [-1, 100.1, float("nan"), float("inf"), "high", None])
def test_points_outside_the_scale_are_refused(points):
    """Points must be finite and from 0 to 100."""
    with pytest.raises(ValidationError):
        answer(part("evidence", points), part("clarity", 1))


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0.01, 1_000)), min_size=1, max_size=20))
def test_weighted_mean_lies_between_its_scores(pairs):
    """Except for rounding, the mean is within the range of the scores."""
    scores = [score for score, _ in pairs]

    assert min(scores) - 0.06 <= weighted_mean(pairs, decimals=1) <= max(scores) + 0.06


def test_score_survives_json():
    """A stored score is read back unchanged."""
    score = reconcile(answer(part("evidence", 50), part("clarity", 60)), CRITERIA, model="m")

    assert ProfileScore.model_validate(score.model_dump(mode="json")) == score
