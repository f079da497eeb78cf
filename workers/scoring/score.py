"""The score of a profile: what a model must answer, and what is kept of it. Pure."""

from collections.abc import Iterable, Sequence

from pydantic import BaseModel, Field

from workers.judging.answers import CriterionAnswer, RubricAnswer
from workers.judging.criteria import Criterion, key_of
from workers.judging.numbers import Points
from workers.judging.scores import is_off, weighted_mean


class ProfileCriterion(CriterionAnswer):
    """What the model says about one criterion."""

    score: Points = Field(description="0 no evidence, 50 adequate, 100 exemplary")
    evidence: list[str] = Field(description="short verbatim quotes or field names of the profile")


class ScoreAnswer(RubricAnswer[ProfileCriterion]):
    """What the model answers about a profile."""


class CriterionScore(ProfileCriterion):
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


def reconcile(
    answer: ScoreAnswer, criteria: Sequence[Criterion], *, model: str, flags: Iterable[str] = ()
) -> ProfileScore:
    """Return the score of an answer to these criteria: their weights, our overall, the model's points and evidence."""
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
