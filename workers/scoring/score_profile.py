"""The handler of ``scoring.score``: score one profile by one rubric; an owner's identical jobs share the answer."""

import re
from datetime import timedelta
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints, ValidationError

from models.scoring import DEFAULT_MODEL, Profile, ScoringJob
from workers.judging.answers import answer_to
from workers.judging.rubric_rule import score_by_rule
from workers.runtime.handler.context import Context
from workers.runtime.handler.errors import Permanent
from workers.runtime.handler.limits import Limit
from workers.runtime.handler.outcomes import Complete, Outcome
from workers.runtime.handler.ports import Answer
from workers.runtime.handler.registry import stage
from workers.runtime.handler.rule_based import NOTE
from workers.runtime.handler.sql_door import SqlDoor
from workers.runtime.refusals import first_problem
from workers.scoring import rubric
from workers.scoring.question import PARAMETERS, ProfileQuestion, build_question
from workers.scoring.score import ScoreAnswer, reconcile

ASKED_PROGRESS = 25
# How long an answer is shared with identical jobs of the same owner.
SHARED_FOR = timedelta(hours=24)

_MODEL_NAME = re.compile(r"[A-Za-z0-9][\w.:/@+-]*", re.ASCII)


def _check_prompt(prompt: str) -> str:
    """Refuse a prompt that is empty, that Postgres cannot store, or with criteria that break the grammar."""
    if not prompt.strip():
        raise ValueError("must not be empty")
    if "\x00" in prompt:
        raise ValueError("must not contain NUL characters")
    rubric.parse(prompt)
    return prompt


def _check_model_name(model: str) -> str:
    """Refuse text that no provider accepts as a model name."""
    if not _MODEL_NAME.fullmatch(model):
        raise ValueError(f"must be a model name like gpt-4o-mini or vendor/model:tag, got {model!r}")
    return model


class ScoreRequest(BaseModel):
    """The request for ``scoring.score`` at every door; the fields are columns of ``scoring_jobs``.

    ``prompt`` is free text with optional criteria (``workers.scoring.rubric``). Only the run finds out whether the
    provider has the model.
    """

    model_config = ConfigDict(extra="forbid")

    profile_id: UUID
    prompt: Annotated[str, StringConstraints(strip_whitespace=True, max_length=20_000), AfterValidator(_check_prompt)]
    model_name: Annotated[str, StringConstraints(max_length=50), AfterValidator(_check_model_name)] = DEFAULT_MODEL


def per_profile(at_most: int) -> Limit:
    """Return a limit of ``at_most`` jobs in flight per profile."""
    return Limit(column="profile_id", at_most=at_most)


@stage(
    "scoring.score",
    of=ScoringJob,
    payload=ScoreRequest,
    limit=per_profile(10),
    timeout=timedelta(minutes=2),
    gate="model_name",
    calls="chat",
    sql=SqlDoor(results=("llm_response", "parsed_score")),
    searchable=("profile_id",),
)
async def score_profile(job: ScoringJob, ctx: Context) -> Outcome:
    """Score one profile against a rubric and store the model's evidence with the score.

    If another job of the same owner had an identical question answered within a day, the job completes with that
    answer. If one is asking it, this job waits. No transaction is open while the model answers.
    """
    request = _request(job)
    async with ctx.session() as session:
        profile = await session.get(Profile, request.profile_id)
        if profile is None:
            raise Permanent(f"profile {request.profile_id} no longer exists")
        question = build_question(request.prompt, name=profile.name, attributes=profile.attributes)
    await ctx.progress(ASKED_PROGRESS)
    answer = await ctx.llm.parse(
        question.messages,
        into=answer_to((criterion.name for criterion in question.criteria), form=ScoreAnswer),
        model=request.model_name,
        parameters=PARAMETERS,
        offline=score_by_rule,
        share_for=SHARED_FOR,
    )
    return _complete(question, answer)


def _request(job: ScoringJob) -> ScoreRequest:
    """Return the job's request; raise Permanent if the row, perhaps written in SQL, breaks a rule of the request."""
    try:
        return ScoreRequest(profile_id=job.profile_id, prompt=job.prompt, model_name=job.model_name)
    except ValidationError as error:
        raise Permanent(str(first_problem(error, whole="request"))) from None


def _complete(question: ProfileQuestion, answer: Answer[ScoreAnswer]) -> Complete:
    profile = None if answer.raw.get("note") == NOTE else question.profile
    score = reconcile(answer.value, question.criteria, model=answer.model, profile=profile, flags=question.flags)
    call = {
        "model": answer.model,
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "seconds": round(answer.seconds, 3),
        **({"path": [dict(step) for step in answer.path]} if answer.path else {}),
    }
    response = {**answer.raw, "call": call}
    if answer.cached_from is not None:
        response["cached_from"] = str(answer.cached_from)
    return Complete(values={"llm_response": response, "parsed_score": score.model_dump(mode="json")})
