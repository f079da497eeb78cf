"""The answer that a rubric requires: points, evidence and reasoning for each criterion, exactly once. Pure."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Generic, TypeVar, cast

from pydantic import BaseModel, Field, create_model, model_validator

from workers.judging.criteria import key_of
from workers.judging.numbers import Points

MAX_NAME_SHOWN = 80


class CriterionAnswer(BaseModel):
    """The answer about one criterion."""

    name: str = Field(description="the criterion's exact name")
    score: Points
    evidence: list[str]
    reasoning: str = Field(description="one or two sentences")


C = TypeVar("C", bound=CriterionAnswer)


class RubricAnswer(BaseModel, Generic[C]):
    """The model's answer. Its ``overall`` is only compared with the one that Gristmill computes."""

    overall: Points
    criteria: list[C]
    flags: list[str] = Field(default_factory=list)

    def by_key(self) -> dict[str, C]:
        """Return the answers by the key of their criterion's name."""
        return {key_of(one.name): one for one in self.criteria}


A = TypeVar("A", bound=RubricAnswer[Any])


def answer_to(names: Iterable[str], *, form: type[A]) -> type[A]:
    """Return the type of an answer to exactly these criteria.

    A missing, unknown or repeated criterion is a validation error with a message that can be sent to the model.
    """
    return cast("type[A]", _answer_to(tuple(names), form))


@lru_cache(maxsize=256)
def _answer_to(names: tuple[str, ...], form: type[RubricAnswer[Any]]) -> type[RubricAnswer[Any]]:
    wanted = {key_of(name): name for name in names}

    def score_each_criterion_once(answer: RubricAnswer[Any]) -> RubricAnswer[Any]:
        given = [key_of(one.name) for one in answer.criteria]
        if sorted(given) == sorted(wanted):
            return answer
        missing = ", ".join(repr(name) for key, name in wanted.items() if key not in given) or "none"
        surplus = [one.name[:MAX_NAME_SHOWN] for one in answer.criteria if key_of(one.name) not in wanted]
        twice = [name for key, name in wanted.items() if given.count(key) > 1]
        unwanted = ", ".join(map(repr, [*surplus, *twice])) or "none"
        raise ValueError(f"every criterion must be scored once; missing: {missing}; unknown or doubled: {unwanted}")

    # Typed Any: pydantic's types do not allow the return value of its decorator here.
    validators: dict[str, Any] = {"score_each_criterion_once": model_validator(mode="after")(score_each_criterion_once)}
    return create_model("RubricAnswer", __base__=form, __doc__="An answer to one rubric.", __validators__=validators)
