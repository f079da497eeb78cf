"""The handler of ``assessment.assess``: run the assessor of the request's type and store its result."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from models.assessments import Assessment
from workers.assessment.registry import AssessorTools, options_of, perform
from workers.assessment.request import parse_request
from workers.judging.numbers import NoTruthValue
from workers.runtime.handler.context import Context
from workers.runtime.handler.errors import Permanent
from workers.runtime.handler.naming import Name
from workers.runtime.handler.outcomes import Complete, Outcome
from workers.runtime.handler.registry import stage
from workers.runtime.handler.sql_door import SqlDoor

MAX_TIMEOUT_SECONDS = 86_400


def _check_request(request_data: dict[str, Any]) -> dict[str, Any]:
    """Refuse an invalid request, an unknown type, and options that the type does not accept."""
    try:
        options_of(parse_request(request_data))
    except Permanent as error:
        raise ValueError(str(error)) from None
    return request_data


class AssessRequest(BaseModel):
    """The request for ``assessment.assess`` at every door; the fields are columns of ``assessment_states``.

    ``request_data`` is stored unchanged, with members that Gristmill does not know.
    """

    model_config = ConfigDict(extra="forbid")

    assessment_id: Name
    request_data: Annotated[dict[str, Any], AfterValidator(_check_request)]
    timeout_seconds: Annotated[int, Field(ge=1, le=MAX_TIMEOUT_SECONDS), NoTruthValue] = 300

    def renewed(self, old_id: str) -> Self:
        """Return the request of a new job that repeats an old one, under another name because the old name is taken."""
        return self.model_copy(update={"assessment_id": f"{self.assessment_id[:200]} (again, for {old_id})"})


@stage(
    "assessment.assess",
    of=Assessment,
    payload=AssessRequest,
    timeout=timedelta(minutes=5),
    gate="asked_model",
    calls="chat",
    sql=SqlDoor(results=("result_data",)),
)
async def assess(job: Assessment, ctx: Context) -> Outcome:
    """Assess the request and store the verdict with the reasoning of every criterion.

    A row written in SQL is checked by the same rules as a request at every other door. If it breaks one, it fails at
    once.
    """
    request = parse_request(job.request_data)
    tools = AssessorTools(
        llm=ctx.llm, progress=percent_reporter(ctx.progress), last_attempt=job.retry_count >= job.max_retries
    )
    result = await perform(request, tools)
    return Complete(values={"result_data": result.model_dump(mode="json")})


def percent_reporter(store: Callable[[int], Awaitable[None]]) -> Callable[[float], Awaitable[None]]:
    """Return a function that takes shares from 0 to 1 and stores each percent from 2 to 99 once, only increasing.

    Concurrent parts may call it.
    """
    stored = 1  # by the claim
    one_at_a_time = asyncio.Lock()

    async def progress(share: float) -> None:
        nonlocal stored
        async with one_at_a_time:
            percent = min(int(share * 100), 99)
            if percent > stored:
                stored = percent
                await store(percent)

    return progress
