"""Compare the ratings of people and of models in a project, for realism and for quality."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from uuid import UUID

from sqlalchemy import func, select, true
from sqlalchemy.ext.asyncio import AsyncSession

from models.operations import DataRecord, LikertScore
from workers.analytics.alignment import is_rule_based

SCALE = range(1, 8)
SCALES = ("realism", "quality")
MIN_RATED_BY_BOTH = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How one model's ratings compare with people's ratings of the ``n`` records that both rated.

    ``mean_difference`` is the model's rating minus the mean of the people: above zero, the model gives more points.
    ``exact`` and ``within_one`` are shares. ``kappa`` is Cohen's kappa with quadratic weights over all seven points: 1
    is perfect agreement, 0 is chance. A value that is not defined is None; ``kappa_undefined`` gives the reason.
    """

    n: int
    mean_difference: float | None
    exact: float | None
    within_one: float | None
    kappa: float | None
    kappa_undefined: str | None


@dataclass(frozen=True, slots=True)
class ModelAgreement:
    """One model compared with the people. Rules are listed, but do not count in the averages."""

    model: str
    rule_based: bool
    realism: Agreement
    quality: Agreement


@dataclass(frozen=True, slots=True)
class Average:
    """The means over the models that are not rules. Values that are not defined are left out."""

    models: int
    mean_difference: float | None
    exact: float | None
    within_one: float | None
    kappa: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """The ratings of a project compared: how many records people rated, each model, and the averages."""

    rated_by_people: int
    models: Sequence[ModelAgreement]
    realism: Average
    quality: Average


@dataclass(frozen=True, slots=True)
class Pair:
    """The ratings of one record: the mean of all people who rated it, and the rating by one model."""

    people: float
    model: int


@dataclass(frozen=True, slots=True)
class Pairs:
    """The ratings to compare: for each model, a pair for each record that people rated, too."""

    rated_by_people: int
    realism: Mapping[str, Sequence[Pair]]
    quality: Mapping[str, Sequence[Pair]]


async def pairs_of(session: AsyncSession, project_id: UUID, *, type_: str | None = None) -> Pairs:
    """Return the ratings by people and by every model of a project's records (of one type, if given)."""
    in_project = (DataRecord.project_id == project_id) & (DataRecord.type == type_ if type_ else true())
    people = (
        select(
            LikertScore.record_id.label("record_id"),
            func.avg(LikertScore.realism_score).label("realism"),
            func.avg(LikertScore.quality_score).label("quality"),
        )
        .join(DataRecord, DataRecord.id == LikertScore.record_id)
        .where(in_project, LikertScore.llm_model.is_(None))
        .group_by(LikertScore.record_id)
        .subquery()
    )
    rated = (await session.execute(select(func.count()).select_from(people))).scalar_one()
    by_models = in_project & LikertScore.llm_model.is_not(None)
    rating_models = (
        select(LikertScore.llm_model).join(DataRecord, DataRecord.id == LikertScore.record_id).where(by_models)
    )
    models = [str(model) for model in await session.scalars(rating_models.distinct())]
    both = (
        select(
            LikertScore.llm_model,
            LikertScore.realism_score,
            LikertScore.quality_score,
            people.c.realism,
            people.c.quality,
        )
        .join(DataRecord, DataRecord.id == LikertScore.record_id)
        .join(people, people.c.record_id == LikertScore.record_id)
        .where(by_models)
        .order_by(LikertScore.llm_model, LikertScore.record_id)
    )
    realism: dict[str, list[Pair]] = {model: [] for model in models}
    quality: dict[str, list[Pair]] = {model: [] for model in models}
    for model, by_model_realism, by_model_quality, by_people_realism, by_people_quality in await session.execute(both):
        # A model may have begun to rate between the two statements.
        realism.setdefault(model, []).append(Pair(float(by_people_realism), by_model_realism))
        quality.setdefault(model, []).append(Pair(float(by_people_quality), by_model_quality))
    return Pairs(rated, realism, quality)


def compare(pairs: Pairs) -> Comparison:
    """Compare every model with the people. Pure. The first call takes 1-2 s: do not call it in a transaction."""
    models = [
        ModelAgreement(model, is_rule_based(model), agreement(pairs.realism[model]), agreement(pairs.quality[model]))
        for model in sorted(pairs.realism)
    ]
    counted = [one for one in models if not one.rule_based]
    realism, quality = average([one.realism for one in counted]), average([one.quality for one in counted])
    return Comparison(pairs.rated_by_people, models, realism, quality)


def agreement(pairs: Sequence[Pair]) -> Agreement:
    """Compare a model's ratings with people's. Pure.

    The mean difference uses the mean of the people as it is. All other figures use the mean rounded to a point of the
    scale, halves up.
    """
    people = [half_up(pair.people) for pair in pairs]
    models = [pair.model for pair in pairs]
    apart = [abs(one - other) for one, other in zip(people, models, strict=True)]
    undefined = _undefined(people, models)
    return Agreement(
        n=len(pairs),
        mean_difference=_mean(pair.model - pair.people for pair in pairs),
        exact=_mean(steps == 0 for steps in apart),
        within_one=_mean(steps <= 1 for steps in apart),
        kappa=None if undefined else _kappa(people, models),
        kappa_undefined=undefined,
    )


def average(models: Sequence[Agreement]) -> Average:
    """Return the means over the models, each counted once. Values that are not defined are left out. Pure."""
    counted = [one for one in models if one.n]
    return Average(
        len(counted),
        _mean(one.mean_difference for one in counted),
        _mean(one.exact for one in counted),
        _mean(one.within_one for one in counted),
        _mean(one.kappa for one in counted),
    )


def half_up(mean: float) -> int:
    """Round to the nearest point of the scale, halves up. Python's own rounding gives 2 for 2.5 and 4 for 3.5."""
    return math.floor(mean + 0.5)


def _undefined(people: Sequence[int], models: Sequence[int]) -> str | None:
    """Return why kappa is not defined: too few ratings, or all ratings are equal; None if it is defined."""
    if len(people) < MIN_RATED_BY_BOTH:
        return f"needs at least {MIN_RATED_BY_BOTH} records rated by both, got {len(people)}"
    if len({*people, *models}) == 1:
        return f"all ratings of both are {people[0]}: agreement by chance is not defined"
    return None


def _kappa(people: Sequence[int], models: Sequence[int]) -> float | None:
    from sklearn.metrics import cohen_kappa_score  # noqa: PLC0415 - takes 1 s and 100 MB; only this function needs it

    kappa = float(cohen_kappa_score(people, models, labels=list(SCALE), weights="quadratic"))
    return round(kappa, 4) if math.isfinite(kappa) else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [float(value) for value in values if value is not None and math.isfinite(value)]
    return round(fmean(known), 4) if known else None
