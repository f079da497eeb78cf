"""``composite``: several assessments of one server at once, weighted, with what failed in plain sight."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from workers.assessment.registry import Desk, assessor, perform
from workers.assessment.request import AssessmentRequest, Name
from workers.assessment.result import (
    AssessmentResult,
    PartResult,
    shares,
    verdict_of,
)
from workers.judging.criteria import Weight
from workers.judging.judgement import SHARE_DECIMALS, total
from workers.judging.scores import weighted_mean
from workers.runtime.handler.errors import Permanent, RateLimited, Retryable, Unavailable, describe
from workers.runtime.handler.rule_based import NOTE

TYPE = "composite"
MAX_PARTS = 10

Ended = AssessmentResult | Exception


def _is_no_composite(assessment_type: str) -> str:
    if assessment_type == TYPE:
        raise ValueError(f"must be another type than the whole's, got {assessment_type!r}")
    return assessment_type


class Part(BaseModel):
    """One assessment of a composite; ``name`` tells two of one type apart."""

    model_config = ConfigDict(extra="forbid")

    assessment_type: Annotated[Name, AfterValidator(_is_no_composite), Field(alias="assessmentType")]
    name: Name | None = None
    weight: Weight = 1.0
    options: dict[str, Any] = Field(default_factory=dict)


class CompositeOptions(BaseModel):
    """The parts, each a type with its options and its weight."""

    model_config = ConfigDict(extra="forbid")

    parts: Annotated[list[Part], Field(min_length=1, max_length=MAX_PARTS)]


@assessor(TYPE, options=CompositeOptions)
async def assess_parts(request: AssessmentRequest, options: CompositeOptions, desk: Desk) -> AssessmentResult:
    """Run all parts at once; what fails for good is listed with its error, and the other weights are renormalised.

    A provider that is away and a part's rate limit snooze the whole, and an error that an attempt could mend is retried
    as long as there is one: a part is missing only where waiting would not bring it. Raises Permanent when every part
    failed for good.
    """
    gauge = _Gauge([part.weight for part in options.parts], desk)
    ended = await asyncio.gather(
        *(_perform(_request_of(part, request), gauge.desk(place)) for place, part in enumerate(options.parts))
    )
    _raise_what_waiting_mends(options.parts, ended, last_attempt=desk.last_attempt)
    return _composed(request, options.parts, ended)


class _Gauge:
    """The progress of the whole: that of its parts by their weights."""

    def __init__(self, weights: Sequence[float], desk: Desk) -> None:
        self._weights = weights
        self._done = [0.0] * len(weights)
        self._desk = desk

    def desk(self, place: int) -> Desk:
        """Return the desk of one part: the whole's, but for its progress."""

        async def progress(share: float) -> None:
            self._done[place] = max(self._done[place], share)
            share_of_all = weighted_mean(zip(self._done, self._weights, strict=True), decimals=SHARE_DECIMALS)
            await self._desk.progress(share_of_all)

        return Desk(llm=self._desk.llm, progress=progress, last_attempt=self._desk.last_attempt)


def _request_of(part: Part, whole: AssessmentRequest) -> AssessmentRequest:
    return whole.model_copy(update={"assessment_type": part.assessment_type, "options": part.options})


async def _perform(request: AssessmentRequest, desk: Desk) -> Ended:
    """Return a part's result or its error; only a cancellation goes through, and then to all parts."""
    try:
        result = await perform(request, desk)
    except Exception as error:  # noqa: BLE001 - a part's error is the whole's result, whatever it is
        return error
    await desk.progress(1.0)
    return result


def _raise_what_waiting_mends(parts: Sequence[Part], ended: Sequence[Ended], *, last_attempt: bool) -> None:
    errors = [(part, end) for part, end in zip(parts, ended, strict=True) if isinstance(end, Exception)]
    said = "; ".join(f"{part.name or part.assessment_type}: {describe(error)}" for part, error in errors)
    away = [error for _, error in errors if isinstance(error, Unavailable)]
    if away:  # of several the one that is away the longest: the whole waits for it, whatever else failed
        raise max(away, key=lambda error: error.delay)
    limits = [error for _, error in errors if isinstance(error, RateLimited)]
    if limits:
        raise RateLimited(said, delay=max((limit.delay for limit in limits), default=timedelta()))
    mendable = any(not isinstance(error, Permanent) for _, error in errors)
    if mendable and (not last_attempt or len(errors) == len(parts)):
        raise Retryable(said)
    if len(errors) == len(parts):
        raise Permanent(f"every part failed: {said}")


def _composed(request: AssessmentRequest, parts: Sequence[Part], ended: Sequence[Ended]) -> AssessmentResult:
    counted = [
        part.weight if isinstance(end, AssessmentResult) else None for part, end in zip(parts, ended, strict=True)
    ]
    listed = [_listed(*one) for one in zip(parts, ended, shares(counted), strict=True)]
    results = [one.result for one in listed if one.result]
    scores = ((one.result.score, one.weight) for one in listed if one.result)
    score = weighted_mean(scores, decimals=SHARE_DECIMALS)
    invalid = any(result.verdict == "invalid" for result in results)
    rule_based = all(result.rule_based for result in results)
    return AssessmentResult(
        assessment_type=request.assessment_type,
        score=score,
        verdict="invalid" if invalid else verdict_of(score),
        parts=listed,
        flags=_flags(listed),
        model=", ".join(dict.fromkeys(result.model for result in results if result.model)) or None,
        rule_based=rule_based,
        note=NOTE if rule_based else None,
        prompt_tokens=total(result.prompt_tokens for result in results),
        completion_tokens=total(result.completion_tokens for result in results),
    )


def _listed(part: Part, end: Ended, share: float) -> PartResult:
    failed = isinstance(end, Exception)
    return PartResult(
        name=part.name or part.assessment_type,
        assessment_type=part.assessment_type,
        status="failed" if failed else "completed",
        weight=part.weight,
        share=share,
        error=describe(end) if isinstance(end, Exception) else None,
        result=end if isinstance(end, AssessmentResult) else None,
    )


def _flags(parts: Sequence[PartResult]) -> list[str]:
    failed = [part.name for part in parts if part.status == "failed"]
    flags = [f"{part.name}: {flag}" for part in parts if part.result for flag in part.result.flags]
    if not failed:
        return flags
    return [f"{len(failed)} of {len(parts)} parts failed ({', '.join(failed)}): weights renormalised", *flags]
