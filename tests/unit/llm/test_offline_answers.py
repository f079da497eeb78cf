"""Each question brings its own rule, and its answer is the same in every release: questions and answers are recorded.

The file was written by release 0.1.0, before the rules moved to the rooms of their questions.
"""

import hashlib
import json
import uuid
from collections.abc import Sequence
from typing import Any

import pytest

from tests.support.paths import ROOT, SAMPLES
from workers.analytics import alignment, summary
from workers.analytics.guidelines import Retrieved
from workers.analytics.offline_rules import align_by_rule, summarise_by_rule
from workers.analytics.passages import split_passages
from workers.analytics.pdf import read_pages
from workers.judging import judgement
from workers.judging.answers import answer_to
from workers.judging.criteria import Criterion
from workers.judging.rubric_rule import score_by_rule
from workers.llm.offline import OfflineEvaluator
from workers.runtime.handler.ports import Message
from workers.scoring import question
from workers.scoring.score import ScoreAnswer

RECORDED: dict[str, list[dict[str, Any]]] = json.loads((ROOT / "tests/cases/offline_answers.json").read_text("utf-8"))
GUIDELINES = split_passages(read_pages((SAMPLES / "guidelines.pdf").read_bytes()))


def digest(messages: Sequence[Message]) -> str:
    return hashlib.sha256(json.dumps(list(messages), sort_keys=True).encode()).hexdigest()


async def answered(messages: Sequence[Message], **options: Any) -> dict[str, Any]:
    answer = await OfflineEvaluator().parse(messages, model="m", **options)
    evaluation: dict[str, Any] = answer.raw["evaluation"]
    return evaluation


@pytest.mark.parametrize("case", RECORDED["score"], ids=lambda case: case["messages"][:8])
async def test_a_profile_is_asked_about_and_scored_as_ever(case: dict[str, Any]) -> None:
    """Also its words to a model: an answer to the same question is reused for a day."""
    asked = question.build_question(**case["asked"])
    form = answer_to((one.name for one in asked.criteria), form=ScoreAnswer)

    assert digest(asked.messages) == case["messages"]
    assert await answered(asked.messages, into=form, offline=score_by_rule) == case["answer"]


@pytest.mark.parametrize("case", RECORDED["judge"], ids=lambda case: case["messages"][:8])
async def test_a_subject_is_asked_about_and_judged_as_ever(case: dict[str, Any]) -> None:
    """By the same rule as a profile."""
    subject = dict(case["asked"])
    criteria = [Criterion.model_validate(one) for one in subject.pop("criteria")]
    messages = judgement.messages(judgement.Subject(**subject), criteria)
    form = answer_to((one.name for one in criteria), form=judgement.SubjectAnswer)

    assert digest(messages) == case["messages"]
    assert await answered(messages, into=form, offline=score_by_rule) == case["answer"]


@pytest.mark.parametrize("case", RECORDED["align"], ids=lambda case: case["messages"][:8])
async def test_a_record_is_asked_about_and_aligned_as_ever(case: dict[str, Any]) -> None:
    """Beside the passages of the sample guidelines."""
    asked = case["asked"]
    record = alignment.RecordToJudge(uuid.uuid4(), asked["type"], asked["content"], asked["truncated"])
    messages = alignment.alignment_question(record, [Retrieved(GUIDELINES[place], 0.5) for place in asked["passages"]])

    assert digest(messages) == case["messages"]
    assert await answered(messages, into=alignment.AlignmentAnswer, offline=align_by_rule) == case["answer"]


@pytest.mark.parametrize("case", RECORDED["summarise"], ids=lambda case: case["messages"][:8])
async def test_facts_are_asked_about_and_summarised_as_ever(case: dict[str, Any]) -> None:
    """For both types of records."""
    messages = summary.report_question(case["asked"])

    assert digest(messages) == case["messages"]
    assert await answered(messages, into=summary.SummaryAnswer, offline=summarise_by_rule) == case["answer"]
