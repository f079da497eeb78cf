"""The handler of ``scoring.score``: score one profile by one rubric; identical jobs share the answer for a day."""

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
from workers.runtime.handler.outcomes import Complete, Outcome, Rows, Snooze
from workers.runtime.handler.ports import Answer
from workers.runtime.handler.registry import stage
from workers.runtime.refusals import first_problem
from workers.scoring import answers, rubric
from workers.scoring.question import PARAMETERS, ProfileQuestion, build_question, fingerprint
from workers.scoring.score import ScoreAnswer, reconcile

ASKED_PROGRESS = 25

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


@stage("scoring.score", of=ScoringJob, payload=ScoreRequest, limit=per_profile(10), timeout=timedelta(minutes=2))
async def score_profile(job: ScoringJob, ctx: Context) -> Outcome:
    """Score one profile against a rubric and store the model's evidence with the score.

    If an identical question was answered within a day, the job completes with that answer. If another job is asking it,
    this job waits. No transaction is open while the model answers.
    """
    request = _request(job)
    async with ctx.session() as session:
        profile = await session.get(Profile, request.profile_id)
        if profile is None:
            raise Permanent(f"profile {request.profile_id} no longer exists")
        question = build_question(request.prompt, name=profile.name, attributes=profile.attributes)
    key = fingerprint(await ctx.llm.resolve(request.model_name), question.messages)
    async with ctx.session() as session:
        taken = await answers.take(session, key, run=ctx.run, owner=job.owner_id)
    match taken:
        case answers.SharedAnswer(job_id, llm_response, parsed_score):
            # Another owner's job is not named.
            marked = llm_response | {"cached_from": str(job_id) if job_id else "another job"}
            return Complete(values={"llm_response": marked, "parsed_score": parsed_score})
        case answers.AskedElsewhere(job_id, delay):
            return Snooze(delay, f"identical job {job_id} is in flight" if job_id else "an identical job is in flight")
        case answers.MustAsk():
            await ctx.progress(ASKED_PROGRESS)
            answer = await ctx.llm.parse(
                question.messages,
                into=answer_to((criterion.name for criterion in question.criteria), form=ScoreAnswer),
                model=request.model_name,
                parameters=PARAMETERS,
                offline=score_by_rule,
            )
            return _complete(key, question, answer, ctx)


def _request(job: ScoringJob) -> ScoreRequest:
    """Return the job's request; raise Permanent if the row, perhaps written in SQL, breaks a rule of the request."""
    try:
        return ScoreRequest(profile_id=job.profile_id, prompt=job.prompt, model_name=job.model_name)
    except ValidationError as error:
        raise Permanent(str(first_problem(error, whole="request"))) from None


def _complete(key: bytes, question: ProfileQuestion, answer: Answer[ScoreAnswer], ctx: Context) -> Complete:
    score = reconcile(answer.value, question.criteria, model=answer.model, flags=question.flags)
    call = {
        "model": answer.model,
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "seconds": round(answer.seconds, 3),
        **({"path": [dict(step) for step in answer.path]} if answer.path else {}),
    }
    values = {"llm_response": {**answer.raw, "call": call}, "parsed_score": score.model_dump(mode="json")}
    return Complete(values, write=Rows(answers.record, [answers.AnsweredQuestion(key, ctx.run, answer.model)]))
