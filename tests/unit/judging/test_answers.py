"""The type of an answer to a rubric."""

from typing import Any

import pytest

from workers.judging.answers import RubricAnswer, answer_to
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
def test_schema_names_the_bounds_of_points_as_json_schema_does(form: type[RubricAnswer[Any]], about: str) -> None:
    """Strict servers refuse keywords that only pydantic knows."""
    schema = schema_of(answer_to(["clarity"], form=form))
    (criterion,) = schema["$defs"].values()

    assert schema["properties"]["overall"] == {"minimum": 0, "maximum": 100, "type": "number"}
    assert criterion["properties"]["score"] == {"minimum": 0, "maximum": 100, "type": "number", "description": about}
    assert list(criterion["properties"]) == ["name", "score", "evidence", "reasoning"]


def test_one_rubric_has_one_form() -> None:
    """The type is created once, because its schema is cached by type."""
    first, again = answer_to(["a", "b"], form=ScoreAnswer), answer_to(("a", "b"), form=ScoreAnswer)
    others = answer_to(["b", "a"], form=ScoreAnswer), answer_to(["a", "b"], form=SubjectAnswer)

    assert first is again
    assert len({first, *others}) == 3
