"""The handler of ``scoring.score``: one profile, one rubric, one answer, shared by identical jobs for a day."""

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
from workers.scoring.question import PARAMETERS, Question, ask, fingerprint
from workers.scoring.score import ScoreAnswer, reconcile

ASKED_PROGRESS = 25

_MODEL_NAME = re.compile(r"[A-Za-z0-9][\w.:/@+-]*", re.ASCII)


def _readable(prompt: str) -> str:
    """Refuse a prompt that no run could use: nothing in it, what Postgres cannot keep, criteria that cannot be read."""
    if not prompt.strip():
        raise ValueError("must not be empty")
    if "\x00" in prompt:
        raise ValueError("must not contain NUL characters")
    rubric.parse(prompt)
    return prompt


def _nameable(model: str) -> str:
    """Refuse what is no model name with any provider."""
    if not _MODEL_NAME.fullmatch(model):
        raise ValueError(f"must be a model name like gpt-4o-mini or vendor/model:tag, got {model!r}")
    return model


class ScoreRequest(BaseModel):
    """What the doors accept for ``scoring.score``; the fields are columns of ``scoring_jobs``.

    ``prompt`` is free text with optional criteria (``workers.scoring.rubric``). Whether a provider has the model is
    known only when the job runs.
    """

    model_config = ConfigDict(extra="forbid")

    profile_id: UUID
    prompt: Annotated[str, StringConstraints(strip_whitespace=True, max_length=20_000), AfterValidator(_readable)]
    model_name: Annotated[str, StringConstraints(max_length=50), AfterValidator(_nameable)] = DEFAULT_MODEL


def per_profile(at_most: int) -> Limit:
    """Return the limit of so many jobs in flight per profile."""
    return Limit(column="profile_id", at_most=at_most)


@stage(
    "scoring.score",
    of=ScoringJob,
    payload=ScoreRequest,
    limit=per_profile(10),
    timeout=timedelta(minutes=2),
    gate="model_name",
    calls="chat",
)
async def score_profile(job: ScoringJob, ctx: Context) -> Outcome:
    """Score one profile against a rubric and keep the model's evidence beside the score.

    An identical question answered within a day completes from that answer; one that is being asked is waited for.
    No transaction is open while the model answers.
    """
    request = _request(job)
    async with ctx.session() as session:
        profile = await session.get(Profile, request.profile_id)
        if profile is None:
            raise Permanent(f"profile {request.profile_id} no longer exists")
        question = ask(request.prompt, name=profile.name, attributes=profile.attributes)
    key = fingerprint(await ctx.llm.resolve(request.model_name), question.messages)
    async with ctx.session() as session:
        taken = await answers.take(session, key, run=ctx.run, owner=job.owner_id)
    match taken:
        case answers.Answered(job_id, llm_response, parsed_score):
            # Of another owner's job only that there was one.
            marked = llm_response | {"cached_from": str(job_id) if job_id else "another job"}
            return Complete(values={"llm_response": marked, "parsed_score": parsed_score})
        case answers.InFlight(job_id, delay):
            return Snooze(delay, f"identical job {job_id} is in flight" if job_id else "an identical job is in flight")
        case answers.Ours():
            await ctx.progress(ASKED_PROGRESS)
            answer = await ctx.llm.parse(
                question.messages,
                into=answer_to((criterion.name for criterion in question.criteria), form=ScoreAnswer),
                model=request.model_name,
                parameters=PARAMETERS,
                offline=score_by_rule,
            )
            return _completed(key, question, answer, ctx)


def _request(job: ScoringJob) -> ScoreRequest:
    """Return the job's request; a row written in SQL is held to the rules of every other door here."""
    try:
        return ScoreRequest(profile_id=job.profile_id, prompt=job.prompt, model_name=job.model_name)
    except ValidationError as error:
        raise Permanent(str(first_problem(error, whole="request"))) from None


def _completed(key: bytes, question: Question, answer: Answer[ScoreAnswer], ctx: Context) -> Complete:
    score = reconcile(answer.value, question.criteria, model=answer.model, flags=question.flags)
    call = {
        "model": answer.model,
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "seconds": round(answer.seconds, 3),
    }
    values = {"llm_response": {**answer.raw, "call": call}, "parsed_score": score.model_dump(mode="json")}
    return Complete(values, write=Rows(answers.record, [answers.Given(key, ctx.run, answer.model)]))
