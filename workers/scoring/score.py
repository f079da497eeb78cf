"""The score of a profile: what a model must answer, and what is stored. Pure."""

from collections.abc import Iterable, Sequence

from pydantic import BaseModel, Field

from workers.judging.answers import CriterionAnswer, RubricAnswer
from workers.judging.criteria import Criterion, key_of
from workers.judging.numbers import Points
from workers.judging.scores import is_off, weighted_mean


class ProfileCriterion(CriterionAnswer):
    """The model's answer about one criterion."""

    score: Points = Field(description="0 no evidence, 50 adequate, 100 exemplary")
    evidence: list[str] = Field(description="short verbatim quotes or field names of the profile")


class ScoreAnswer(RubricAnswer[ProfileCriterion]):
    """The model's answer about a profile."""


class CriterionScore(ProfileCriterion):
    """The score of one criterion: points and evidence from the model, name and weight from the rubric."""

    weight: float


class ProfileScore(BaseModel):
    """The value of ``scoring_jobs.parsed_score``.

    ``overall`` (0–100, one decimal) is the mean of the criteria's scores by the rubric's weights. It is computed here,
    not taken from the model. ``criteria`` have the order of the rubric. ``flags`` are notes of the model and of
    Gristmill: ``profile truncated``, and ``model's own overall was …`` if the model's overall differs by more than 5.
    ``model`` names the model that answered; ``offline-rubric-v1`` is rule-based, not an AI judgement.
    """

    overall: Points
    criteria: list[CriterionScore]
    flags: list[str]
    model: str


def reconcile(
    answer: ScoreAnswer, criteria: Sequence[Criterion], *, model: str, flags: Iterable[str] = ()
) -> ProfileScore:
    """Return the score: points and evidence from the answer, weights from the criteria, and the overall of both."""
    given = answer.by_key()
    scores = [
        CriterionScore.model_validate(given[key_of(one.name)].model_dump() | {"name": one.name, "weight": one.weight})
        for one in criteria
    ]
    overall = weighted_mean(((score.score, score.weight) for score in scores), decimals=1)
    notes = [*answer.flags, *flags]
    if is_off(answer.overall, overall):
        notes.append(f"model's own overall was {answer.overall:g}")
    return ProfileScore(overall=overall, criteria=scores, flags=list(dict.fromkeys(notes)), model=model)
