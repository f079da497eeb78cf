"""The handler of ``assessment.assess``: run the assessor that the request names, and keep what it says."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from models.assessments import Assessment
from workers.assessment.numbers import NoTruthValue
from workers.assessment.registry import Desk, options_of, perform
from workers.assessment.request import read
from workers.runtime.handler.context import Context
from workers.runtime.handler.documents import Unkeepable, keepable
from workers.runtime.handler.errors import Permanent
from workers.runtime.handler.outcomes import Complete, Outcome
from workers.runtime.handler.registry import stage

LONGEST_TIMEOUT_SECONDS = 86_400


def _assessable(request_data: dict[str, Any]) -> dict[str, Any]:
    """Refuse what no run could assess: a bad request, an unknown type, options its type does not take."""
    try:
        options_of(read(request_data))
    except Permanent as error:
        raise ValueError(str(error)) from None
    return request_data


def _named(assessment_id: str) -> str:
    """Refuse a name that nobody could read or type; ``create_assessment`` refuses the same."""
    if not assessment_id.strip():
        raise ValueError(f"must not be empty, got {assessment_id!r}")
    try:
        keepable(assessment_id, name="its text")
    except Unkeepable as error:
        raise ValueError(str(error).removeprefix("its text ")) from None
    return assessment_id


class AssessRequest(BaseModel):
    """What the doors accept for ``assessment.assess``; the fields are columns of ``assessment_states``.

    ``request_data`` is kept to the letter, with members that are none of ours.
    """

    model_config = ConfigDict(extra="forbid")

    assessment_id: Annotated[str, StringConstraints(max_length=255), AfterValidator(_named)]
    request_data: Annotated[dict[str, Any], AfterValidator(_assessable)]
    timeout_seconds: Annotated[int, Field(ge=1, le=LONGEST_TIMEOUT_SECONDS), NoTruthValue] = 300

    def renewed(self, old_id: str) -> Self:
        """Return the request of a new job for what an old one was asked: its name is taken, so it has another."""
        return self.model_copy(update={"assessment_id": f"{self.assessment_id[:200]} (again, for {old_id})"})


@stage("assessment.assess", of=Assessment, payload=AssessRequest, timeout=timedelta(minutes=5))
async def assess(job: Assessment, ctx: Context) -> Outcome:
    """Assess what the request asks for and keep the verdict with every criterion's reasons.

    A row written in SQL is held to the rules of every other door here: what they refuse fails at once.
    """
    request = read(job.request_data)
    desk = Desk(llm=ctx.llm, progress=gauge(ctx.progress), last_attempt=job.retry_count >= job.max_retries)
    result = await perform(request, desk)
    return Complete(values={"result_data": result.model_dump(mode="json")})


def gauge(store: Callable[[int], Awaitable[None]]) -> Callable[[float], Awaitable[None]]:
    """Return a progress that takes shares of the whole and stores each percent from 2 to 99 once, only ever upwards.

    Parts that run at the same time may all report to it.
    """
    shown = 1  # which the claim has stored
    one_at_a_time = asyncio.Lock()

    async def progress(share: float) -> None:
        nonlocal shown
        async with one_at_a_time:
            percent = min(int(share * 100), 99)
            if percent > shown:
                shown = percent
                await store(percent)

    return progress
