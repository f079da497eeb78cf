"""The type of an answer to a rubric."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.judging.answers import RubricAnswer, answer_to
from workers.judging.criteria import key_of, members_of
from workers.judging.judgement import SubjectAnswer
from workers.llm.structured import schema_of
from workers.scoring.score import ScoreAnswer


@pytest.mark.parametrize(
    ("form", "about"),
    [
        (ScoreAnswer, "0 no evidence, 50 adequate, 100 exemplary"),
        (SubjectAnswer, "0 the lowest of the criterion's scale, 100 the highest"),
    ],
)
def test_form_bounds_everything_and_has_reasons_before_scores(form: type[RubricAnswer[Any]], about: str) -> None:
    """A server that enforces the form leaves a model no choice of names, and no list or text without an end."""
    schema = schema_of(answer_to(["clarity", "use of sources"], form=form))
    criteria, criterion = schema["$defs"]["Criteria"], schema["$defs"][form.criterion.__name__]

    assert schema["required"] == ["criteria", "flags"]
    assert criteria["required"] == ["clarity", "use_of_sources"]
    assert list(criterion["properties"]) == ["evidence", "reasoning", "score"]
    assert criterion["properties"]["score"] == {
        "minimum": 0,
        "maximum": 100,
        "type": "integer",
        "description": about,
    }
    assert criterion["properties"]["evidence"]["maxItems"] == 3
    for node in (criterion["properties"]["evidence"]["items"], criterion["properties"]["reasoning"]):
        assert node["maxLength"] > 0
    assert schema["properties"]["flags"]["maxItems"] == 3
    assert schema["properties"]["flags"]["items"]["maxLength"] > 0


NAMES = ["Clarity", "Überblick", "日本語", "a b", "A-B", "model_config", "copy", "x" * 80]


def test_members_are_plain_names_that_lead_back_to_the_exact_ones() -> None:
    """Strict servers accept only letters, digits and ``_``, and 64 of them."""
    members = members_of(NAMES)
    answer = answer_to(NAMES, form=ScoreAnswer).model_validate(
        {"criteria": {member: points(place) for place, member in enumerate(members)}}
    )

    assert list(members.values()) == NAMES
    assert all(re.fullmatch("[a-z0-9_]{1,64}", member) for member in members)
    assert [answer.by_key()[key_of(name)].score for name in NAMES] == list(range(len(NAMES)))


@given(st.lists(st.text(min_size=1, max_size=80), max_size=20))
def test_every_name_has_its_own_member(names: list[str]) -> None:
    """However alike the names look without their marks."""
    members = members_of(names)

    assert list(members.values()) == names
    assert members == members_of(names)


def points(score: object) -> dict[str, object]:
    return {"evidence": [], "reasoning": "r", "score": score}


@pytest.mark.parametrize(
    "criteria",
    [
        {"clarity": points(1), "use_of_sources": points(2)},
        {"use of sources": points(2), "CLARITY ": points(1)},
        [{"name": "Use of  sources", **points(2)}, {"name": "clarity", **points(1)}],
    ],
)
def test_criteria_are_recognised_however_a_model_names_them(criteria: object) -> None:
    """By member, by name in any case, and in the list that older forms asked for."""
    answer = answer_to(["clarity", "use of sources"], form=ScoreAnswer).model_validate({"criteria": criteria})

    assert {key: one.score for key, one in answer.by_key().items()} == {"clarity": 1, "use of sources": 2}


def test_what_is_longer_than_asked_is_cut_and_not_refused() -> None:
    """It is paid for; servers that enforce no bounds let a model write more."""
    said = {"evidence": ["e" * 9_000] * 50, "reasoning": "r" * 9_000, "score": "72.5"}
    answer = answer_to(["use"], form=ScoreAnswer).model_validate({"criteria": {"use": said}, "flags": ["f"] * 50})
    one = answer.by_key()["use"]

    assert [len(one.evidence), len(one.evidence[0]), len(one.reasoning), len(answer.flags)] == [12, 480, 1_200, 12]
    assert one.score == 72.5


def test_one_rubric_has_one_form() -> None:
    """The type is created once, because its schema is cached by type."""
    first, again = answer_to(["a", "b"], form=ScoreAnswer), answer_to(("a", "b"), form=ScoreAnswer)
    others = answer_to(["b", "a"], form=ScoreAnswer), answer_to(["a", "b"], form=SubjectAnswer)

    assert first is again
    assert len({first, *others}) == 3
