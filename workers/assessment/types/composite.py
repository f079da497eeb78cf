"""``composite``: several weighted assessments of one server at once. Failed parts are listed in the result."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from workers.assessment.registry import AssessorTools, assessor, perform
from workers.assessment.request import AssessmentRequest, Name
from workers.assessment.result import (
    AssessmentResult,
    PartResult,
    shares,
    verdict_of,
)
from workers.judging.criteria import Weight
from workers.judging.judgement import SHARE_DECIMALS, sum_known
from workers.judging.scores import weighted_mean
from workers.runtime.handler.errors import Permanent, RateLimited, Retryable, Unavailable, describe
from workers.runtime.handler.rule_based import NOTE

TYPE = "composite"
MAX_PARTS = 10

ResultOrError = AssessmentResult | Exception


def _is_no_composite(assessment_type: str) -> str:
    if assessment_type == TYPE:
        raise ValueError(f"must not be {TYPE!r} itself, got {assessment_type!r}")
    return assessment_type


class Part(BaseModel):
    """One assessment of a composite; ``name`` distinguishes two parts of one type."""

    model_config = ConfigDict(extra="forbid")

    assessment_type: Annotated[Name, AfterValidator(_is_no_composite), Field(alias="assessmentType")]
    name: Name | None = None
    weight: Weight = 1.0
    options: dict[str, Any] = Field(default_factory=dict)


class CompositeOptions(BaseModel):
    """The parts: each has a type, options and a weight."""

    model_config = ConfigDict(extra="forbid")

    parts: Annotated[list[Part], Field(min_length=1, max_length=MAX_PARTS)]


@assessor(TYPE, options=CompositeOptions)
async def assess_parts(request: AssessmentRequest, options: CompositeOptions, tools: AssessorTools) -> AssessmentResult:
    """Run all parts at once. List a part that failed for good with its error, and renormalise the other weights.

    If a provider is unavailable or a part is rate limited, the whole job is snoozed. If a part has a retryable error
    and an attempt is left, the whole job is retried. Raise Permanent if every part failed for good.
    """
    parts_progress = _PartsProgress([part.weight for part in options.parts], tools)
    ended = await asyncio.gather(
        *(
            _perform_part(_request_of(part, request), parts_progress.tools_of(place))
            for place, part in enumerate(options.parts)
        )
    )
    _raise_part_errors(options.parts, ended, last_attempt=tools.last_attempt)
    return _combine(request, options.parts, ended)


class _PartsProgress:
    """The progress of a composite: the weighted mean of the progress of its parts."""

    def __init__(self, weights: Sequence[float], tools: AssessorTools) -> None:
        self._weights = weights
        self._done = [0.0] * len(weights)
        self._tools = tools

    def tools_of(self, place: int) -> AssessorTools:
        """Return the tools of one part: those of the composite, with the part's own progress."""

        async def progress(share: float) -> None:
            self._done[place] = max(self._done[place], share)
            share_of_all = weighted_mean(zip(self._done, self._weights, strict=True), decimals=SHARE_DECIMALS)
            await self._tools.progress(share_of_all)

        return AssessorTools(llm=self._tools.llm, progress=progress, last_attempt=self._tools.last_attempt)


def _request_of(part: Part, whole: AssessmentRequest) -> AssessmentRequest:
    return whole.model_copy(update={"assessment_type": part.assessment_type, "options": part.options})


async def _perform_part(request: AssessmentRequest, tools: AssessorTools) -> ResultOrError:
    """Return a part's result or its error. Only a cancellation is raised; it ends all parts."""
    try:
        result = await perform(request, tools)
    except Exception as error:  # noqa: BLE001 - any error of a part becomes part of the result
        return error
    await tools.progress(1.0)
    return result


def _raise_part_errors(parts: Sequence[Part], ended: Sequence[ResultOrError], *, last_attempt: bool) -> None:
    errors = [(part, end) for part, end in zip(parts, ended, strict=True) if isinstance(end, Exception)]
    said = "; ".join(f"{part.name or part.assessment_type}: {describe(error)}" for part, error in errors)
    unavailable = [error for _, error in errors if isinstance(error, Unavailable)]
    if unavailable:  # the job waits for the longest outage, even if other parts failed
        raise max(unavailable, key=lambda error: error.delay)
    limits = [error for _, error in errors if isinstance(error, RateLimited)]
    if limits:
        raise RateLimited(said, delay=max((limit.delay for limit in limits), default=timedelta()))
    retryable = any(not isinstance(error, Permanent) for _, error in errors)
    if retryable and (not last_attempt or len(errors) == len(parts)):
        raise Retryable(said)
    if len(errors) == len(parts):
        raise Permanent(f"every part failed: {said}")


def _combine(request: AssessmentRequest, parts: Sequence[Part], ended: Sequence[ResultOrError]) -> AssessmentResult:
    counted = [
        part.weight if isinstance(end, AssessmentResult) else None for part, end in zip(parts, ended, strict=True)
    ]
    listed = [_part_result(*one) for one in zip(parts, ended, shares(counted), strict=True)]
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
        prompt_tokens=sum_known(result.prompt_tokens for result in results),
        completion_tokens=sum_known(result.completion_tokens for result in results),
    )


def _part_result(part: Part, end: ResultOrError, share: float) -> PartResult:
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
