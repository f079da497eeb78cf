"""The score of a profile: what a model must answer, and what is stored. Pure."""

from collections.abc import Iterable, Sequence
from typing import ClassVar

from pydantic import BaseModel, Field

from workers.judging.answers import CriterionAnswer, Quotes, RubricAnswer
from workers.judging.asked import Score
from workers.judging.criteria import Criterion, key_of
from workers.judging.evidence import SubjectText, unverified_flags
from workers.judging.numbers import Points
from workers.judging.scores import weighted_mean
from workers.scoring.question import PROMPT_VERSION


class ProfileCriterion(CriterionAnswer):
    """The answer about one criterion."""

    evidence: Quotes = Field(description="short verbatim quotes or field names of the profile")
    score: Score = Field(description="0 no evidence, 50 adequate, 100 exemplary")


class ScoreAnswer(RubricAnswer[ProfileCriterion]):
    """The answer about a profile."""

    criterion = ProfileCriterion

    prompt_version: ClassVar[int] = PROMPT_VERSION


class CriterionScore(BaseModel):
    """The score of one criterion: points, evidence and reasons from the model, name and weight from the rubric.

    ``unverified`` are quotes of the model's that are not in the profile.
    """

    name: str
    score: Points
    evidence: list[str]
    reasoning: str
    weight: float
    unverified: list[str] = Field(default_factory=list)


class ProfileScore(BaseModel):
    """The value of ``scoring_jobs.parsed_score``.

    ``overall`` (0–100, one decimal) is the mean of the criteria's scores by the rubric's weights. It is computed here,
    by a model. ``criteria`` have the order of the rubric. ``flags`` are notes of the model and of Gristmill: ``profile
    truncated``, and ``unverified evidence: NAME`` if a quote is not in the profile. ``model`` names the model that
    answered; ``offline-rubric-v1`` is rule-based, not an AI judgement.
    """

    overall: Points
    criteria: list[CriterionScore]
    flags: list[str]
    model: str


def reconcile(
    answer: ScoreAnswer,
    criteria: Sequence[Criterion],
    *,
    model: str,
    profile: SubjectText | None = None,
    flags: Iterable[str] = (),
) -> ProfileScore:
    """Return the score: points and evidence from the answer, weights from the criteria, and the overall of both.

    The quotes are looked up in ``profile``. None: a rule answered, which quotes only what is there.
    """
    given = answer.by_key()
    scores = [_scored(one, given[key_of(one.name)], profile) for one in criteria]
    overall = weighted_mean(((score.score, score.weight) for score in scores), decimals=1)
    notes = [*answer.flags, *unverified_flags(scores), *flags]
    return ProfileScore(overall=overall, criteria=scores, flags=list(dict.fromkeys(notes)), model=model)


def _scored(criterion: Criterion, said: ProfileCriterion, profile: SubjectText | None) -> CriterionScore:
    found, unverified = profile.check(said.evidence) if profile else (said.evidence, [])
    return CriterionScore(
        name=criterion.name,
        score=said.score,
        evidence=found,
        reasoning=said.reasoning,
        weight=criterion.weight,
        unverified=unverified,
    )
