"""Comparison of ratings: checked by hand, and by another formula on real human scores."""

import csv
import json
from collections import defaultdict
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.paths import SHARED_DATA
from workers.analytics.agreement import Pair, Pairs, agreement, compare, half_up

DATA = SHARED_DATA
POINTS = st.integers(1, 7)


def pairs(people: Sequence[float], models: Sequence[int]) -> list[Pair]:
    return [Pair(float(one), other) for one, other in zip(people, models, strict=True)]


def by_formula(people: Sequence[int], models: Sequence[int]) -> float:
    """Return Cohen's kappa with quadratic weights by the textbook formula: 1 - observed / expected disagreement."""
    n = len(people)
    observed = sum((one - other) ** 2 for one, other in zip(people, models, strict=True)) / n
    expected = sum((one - other) ** 2 for one in people for other in models) / n**2
    return 1 - observed / expected


def test_figures_are_those_made_by_hand() -> None:
    """1/1, 2/3, 6/6, 7/4: squares of 0, 1, 0, 9, mean 2.5; all 16 pairs 160, mean 10: kappa 1 - 2.5/10 = 0.75."""
    found = agreement(pairs([1, 2, 6, 7], [1, 3, 6, 4]))

    assert (found.n, found.exact, found.within_one) == (4, 0.5, 0.75)
    assert found.mean_difference == -0.5
    assert found.kappa == 0.75


def test_means_of_people_count_as_they_are_for_the_difference_and_rounded_for_the_rest() -> None:
    """2.5 and 3.5 are rounded to 3 and 4. The difference uses them as they are."""
    found = agreement(pairs([2.5, 3.5, 4.25], [3, 3, 4]))

    assert [half_up(mean) for mean in (2.5, 3.5, 4.25, 6.5)] == [3, 4, 4, 7]
    assert found.exact == pytest.approx(2 / 3, abs=1e-4)
    assert found.mean_difference == pytest.approx((0.5 - 0.5 - 0.25) / 3, abs=1e-4)


@pytest.mark.parametrize(
    ("people", "models", "reason"),
    [
        ([], [], "needs at least 2 records rated by both, got 0"),
        ([4], [5], "needs at least 2 records rated by both, got 1"),
        ([4, 4, 4], [4, 4, 4], "all ratings of both are 4: agreement by chance is not defined"),
    ],
)
def test_undefined_kappa_is_none_with_the_reason(people: list[int], models: list[int], reason: str) -> None:
    """No warning, no NaN. The other figures are there if they are defined."""
    found = agreement(pairs(people, models))

    assert (found.kappa, found.kappa_undefined) == (None, reason)
    assert (found.exact is None) == (not people)


def test_rater_without_variance_against_one_with_has_no_agreement_beyond_chance() -> None:
    """Kappa is 0 then, not undefined."""
    assert agreement(pairs([4, 4, 4, 4], [3, 4, 5, 4])).kappa == 0.0


@given(st.lists(st.tuples(POINTS, POINTS), min_size=2, max_size=40))
def test_kappa_is_the_textbooks_for_any_ratings(rated: list[tuple[int, int]]) -> None:
    """The weights use the whole scale, whatever points occur."""
    people, models = [one for one, _ in rated], [other for _, other in rated]

    found = agreement(pairs(people, models))

    if found.kappa is None:
        assert len({*people, *models}) == 1
    else:
        assert found.kappa == pytest.approx(by_formula(people, models), abs=1e-4)


def test_rules_are_listed_and_left_out_of_averages() -> None:
    """The average is over the models that are not rules, each counted once."""
    realism = defaultdict(list, {
        "judge-a": pairs([1, 7], [1, 7]),
        "judge-b": pairs([1, 7, 4], [2, 6, 4]),
        "offline-rubric-v1": pairs([1, 7], [7, 1]),
    })  # fmt: skip

    found = compare(Pairs(3, realism, realism))

    assert [(one.model, one.rule_based) for one in found.models] == [
        ("judge-a", False), ("judge-b", False), ("offline-rubric-v1", True),
    ]  # fmt: skip
    assert found.models[2].realism.kappa == -1.0
    assert found.realism.models == 2
    assert found.realism.exact == pytest.approx((1 + 1 / 3) / 2, abs=1e-4)


@pytest.mark.skipif(not (DATA / "unieval_sfres.json").exists(), reason="../shared/data/unieval_sfres.json is not here")
def test_real_scores_of_people_agree_as_another_formula_says() -> None:
    """1,181 answers rated by people: the overall scores (with halves) are compared with naturalness (points)."""
    scores = [one["scores"] for one in json.loads((DATA / "unieval_sfres.json").read_text(encoding="utf-8"))]
    people = [score["overall"] for score in scores]
    models = [half_up(score["naturalness"]) for score in scores]

    found = agreement(pairs(people, models))

    assert found.n == 1_181
    assert found.kappa == pytest.approx(by_formula([half_up(one) for one in people], models), abs=1e-4)
    assert found.kappa is not None
    assert 0.5 < found.kappa < 1
    exact = sum(half_up(one) == other for one, other in zip(people, models, strict=True)) / 1_181
    assert found.exact == pytest.approx(exact, abs=1e-4)
    difference = sum(other - one for one, other in zip(people, models, strict=True)) / 1_181
    assert found.mean_difference == pytest.approx(difference, abs=1e-4)


@pytest.mark.skipif(not (DATA / "derived_task_feedback.csv").exists(), reason="../shared/data is not here")
def test_human_scores_of_the_feedback_file_compare_with_themselves() -> None:
    """Each score compared with itself agrees perfectly, compared with its neighbour's it does not."""
    csv.field_size_limit(4 * 1024 * 1024)
    with (DATA / "derived_task_feedback.csv").open(encoding="utf-8", newline="") as file:
        scores = [float(row["human_score"]) for row in csv.DictReader(file) if row["human_score"]]
    points = [min(max(half_up(score), 1), 7) for score in scores]

    same = agreement(pairs(points, points))
    shifted = agreement(pairs(points, points[1:] + points[:1]))

    assert (same.exact, same.kappa, same.mean_difference) == (1.0, 1.0, 0.0)
    assert shifted.kappa is not None
    assert shifted.kappa < 0.7
    assert shifted.kappa == pytest.approx(by_formula(points, points[1:] + points[:1]), abs=1e-4)
