"""The score of a profile: what a model must answer, and what is kept of it. Pure."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Annotated, Self

from pydantic import BaseModel, Field, model_validator

from workers.runtime.handler.numbers import no_truth_value
from workers.scoring.rubric import Criterion

OVERALL_TOLERANCE = 5.0

Points = Annotated[float, no_truth_value, Field(ge=0, le=100, allow_inf_nan=False)]


class CriterionAnswer(BaseModel):
    """What the model says about one criterion."""

    name: str = Field(description="the criterion's exact name")
    score: Points = Field(description="0 no evidence, 50 adequate, 100 exemplary")
    evidence: list[str] = Field(description="short verbatim quotes or field names of the profile")
    reasoning: str = Field(description="one or two sentences")


class ScoreAnswer(BaseModel):
    """What the model answers. Its ``overall`` is asked for only to be compared with ours."""

    overall: Points
    criteria: list[CriterionAnswer]
    flags: list[str] = Field(default_factory=list)


class CriterionScore(CriterionAnswer):
    """One criterion's part of a score: the model's points and evidence, the rubric's name and weight."""

    weight: float


class ProfileScore(BaseModel):
    """The value of ``scoring_jobs.parsed_score``.

    ``overall`` (0–100, one decimal) is the mean of the criteria's scores weighted by the rubric, computed here and not
    trusted from the model. ``criteria`` are those of the rubric, in its order. ``flags`` are notes of the model and
    of ours: ``profile truncated``, ``model's own overall was …`` where it was off by more than 5. ``model`` is who
    answered; ``offline-rubric-v1`` is rule-based, not an AI judgement.
    """

    overall: Points
    criteria: list[CriterionScore]
    flags: list[str]
    model: str


@lru_cache(maxsize=256)
def answer_to(criteria: tuple[Criterion, ...]) -> type[ScoreAnswer]:
    """Return the form of an answer to exactly these criteria: one missing, unknown or doubled is a validation error."""
    wanted = {_key(criterion.name): criterion.name for criterion in criteria}

    class RubricAnswer(ScoreAnswer):
        """An answer to one rubric."""

        @model_validator(mode="after")
        def _scores_each_criterion_once(self) -> Self:
            given = [_key(answer.name) for answer in self.criteria]
            if sorted(given) == sorted(wanted):
                return self
            missing = ", ".join(repr(name) for key, name in wanted.items() if key not in given) or "none"
            surplus = [answer.name[:80] for answer in self.criteria if _key(answer.name) not in wanted]
            twice = [name for key, name in wanted.items() if given.count(key) > 1]
            unwanted = ", ".join(map(repr, [*surplus, *twice])) or "none"
            raise ValueError(f"every criterion must be scored once; missing: {missing}; unknown or doubled: {unwanted}")

    return RubricAnswer


def reconcile(
    answer: ScoreAnswer, criteria: Sequence[Criterion], *, model: str, flags: Iterable[str] = ()
) -> ProfileScore:
    """Return the score of an answer to these criteria: their weights, our overall, the model's points and evidence."""
    given = {_key(one.name): one for one in answer.criteria}
    scores = [
        CriterionScore.model_validate(given[_key(one.name)].model_dump() | {"name": one.name, "weight": one.weight})
        for one in criteria
    ]
    overall = weighted_mean((score.score, score.weight) for score in scores)
    notes = [*answer.flags, *flags]
    if abs(answer.overall - overall) > OVERALL_TOLERANCE:
        notes.append(f"model's own overall was {answer.overall:g}")
    return ProfileScore(overall=overall, criteria=scores, flags=list(dict.fromkeys(notes)), model=model)


def weighted_mean(points: Iterable[tuple[float, float]]) -> float:
    """Return the mean of (score, weight) pairs, rounded to one decimal; weights are positive."""
    pairs = list(points)
    return round(sum(score * weight for score, weight in pairs) / sum(weight for _, weight in pairs), 1)


def _key(name: str) -> str:
    """Models change case and spaces of a name they are told to keep."""
    return " ".join(name.casefold().split())
