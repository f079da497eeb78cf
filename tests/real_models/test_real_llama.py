"""A real server that generates until it is stopped, asked with the default settings: every answer ends in bounds."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

import pytest

from config.settings import LLMSettings
from tests.real_models.conftest import ASSESSMENTS, PROFILES, generated
from tests.real_models.llama import SLOTS
from workers.assessment.registry import AssessorTools, perform
from workers.assessment.request import parse_request
from workers.judging.answers import answer_to
from workers.llm.bounds import bound_of
from workers.llm.provider import build
from workers.runtime.handler.errors import Retryable, Unavailable
from workers.runtime.handler.ports import Answer, LanguageModel
from workers.scoring.question import build_question
from workers.scoring.score import ScoreAnswer, reconcile

pytestmark = pytest.mark.real_models

R = TypeVar("R")

# As many as a job of either stage has.
ATTEMPTS = 6
# Answers that did not come within the time for one: a busy machine, no fault of the form.
MOST_OUTAGES = 100
TASK = "Judge how well this server describes itself to someone who may install it."


@pytest.fixture
async def provider(llama: str) -> AsyncIterator[LanguageModel]:
    settings = LLMSettings()
    made = build(
        api_key=None,
        base_url=llama,
        model="smollm2",
        connect_timeout=settings.connect_timeout_seconds,
        timeout=settings.timeout_seconds,
        max_connections=SLOTS,
        concurrency=SLOTS,
    )
    yield made
    await made.aclose()


class Attempts:
    """Repeats what fails, as the kernel does: an outage costs a wait, everything else an attempt. Keeps the errors."""

    def __init__(self) -> None:
        self.failed: list[str] = []
        self.outages: list[str] = []
        self._at_once = asyncio.Semaphore(SLOTS)

    async def __call__(self, work: Callable[[], Awaitable[R]]) -> R:
        attempts = 0
        while True:
            try:
                async with self._at_once:
                    return await work()
            except Unavailable as error:
                self.outages.append(str(error))
                if len(self.outages) > MOST_OUTAGES:
                    raise
                await asyncio.sleep(error.delay.total_seconds())
            except Retryable as error:
                self.failed.append(str(error))
                attempts += 1
                if attempts == ATTEMPTS:
                    raise


async def test_thirty_profiles_are_scored(
    provider: LanguageModel, llama: str, descriptions: list[dict[str, Any]]
) -> None:
    """Each answer has the form, ends by itself, and its quotes that are not in the profile are told."""
    attempts, started, before = Attempts(), time.monotonic(), generated(llama)

    async def score(attributes: dict[str, Any]) -> Answer[ScoreAnswer]:
        question = build_question(TASK, name=attributes["name"], attributes=attributes)
        form = answer_to((one.name for one in question.criteria), form=ScoreAnswer)
        answer = await provider.parse(question.messages, into=form, model="smollm2")
        scored = reconcile(answer.value, question.criteria, model=answer.model, profile=question.profile)
        assert 0 <= scored.overall <= 100
        assert answer.raw["choices"][0]["finish_reason"] == "stop"
        assert answer.raw["usage"]["completion_tokens"] <= bound_of(form)
        return answer

    answers = await asyncio.gather(*(attempts(partial(score, one)) for one in descriptions[:PROFILES]))

    assert len(answers) == PROFILES
    report("profiles", answers, attempts, seconds=time.monotonic() - started, server=generated(llama) - before)


async def test_five_descriptions_are_assessed(provider: LanguageModel, descriptions: list[dict[str, Any]]) -> None:
    """With five or six criteria each, in one question."""
    attempts, started = Attempts(), time.monotonic()

    async def progress(share: float) -> None:
        assert 0 <= share <= 1

    async def assess(server: dict[str, Any]) -> None:
        data = {"serverName": server["name"], "assessmentType": "mcp_server", "options": {"server": server}}
        tools = AssessorTools(llm=provider, progress=progress, last_attempt=False)
        result = await perform(parse_request(data), tools)
        assert len(result.criteria) >= 7
        assert result.completion_tokens

    await asyncio.gather(*(attempts(partial(assess, one)) for one in descriptions[:ASSESSMENTS]))

    report("assessments", [], attempts, seconds=time.monotonic() - started, server=0)


def report(what: str, answers: list[Answer[Any]], attempts: Attempts, *, seconds: float, server: int) -> None:
    """Print figures for whoever runs this by hand (``-s``)."""
    tokens = [answer.completion_tokens or 0 for answer in answers]
    figures = {"seconds": round(seconds, 1), "failed": attempts.failed, "outages": len(attempts.outages)}
    if tokens:
        figures |= {"tokens": sum(tokens), "most of one": max(tokens), "generated by the server": server}
        figures |= {"slowest": round(max(one.seconds for one in answers), 1)}
    print(what, json.dumps(figures))  # noqa: T201 - the figures are what a person runs it for
