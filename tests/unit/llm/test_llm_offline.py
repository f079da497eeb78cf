"""The offline evaluator: it answers by the rule that a question brings, and says that it is a rule."""

import json
from functools import partial

import pytest
from pydantic import BaseModel

from workers.judging.rubric_rule import score_by_rule
from workers.llm.offline import MODEL, OfflineEvaluator
from workers.llm.provider import build
from workers.runtime.handler.errors import Permanent
from workers.runtime.handler.ports import Message
from workers.runtime.handler.rule_based import NOTE


class Length(BaseModel):
    """How long a question is."""

    characters: int


QUESTION: list[Message] = [{"role": "user", "content": "How are you?"}]


def count(messages):
    """Answer by rule."""
    return {"characters": len(messages[-1]["content"])}


async def test_a_question_is_answered_by_its_own_rule_and_the_answer_says_so():
    """Whoever shows the result can say that no AI judged. It costs nothing."""
    answer = await OfflineEvaluator().parse(QUESTION, into=Length, model="gpt-4o", offline=count)

    assert answer.value == Length(characters=12)
    assert answer.model == MODEL == await OfflineEvaluator().resolve("gpt-4o")
    assert answer.raw == {"model": MODEL, "note": NOTE, "evaluation": {"characters": 12}}
    assert (answer.prompt_tokens, answer.completion_tokens) == (0, 0)
    json.dumps(dict(answer.raw))


async def test_a_question_without_a_rule_is_refused():
    """The evaluator does not pretend to answer what it cannot."""
    with pytest.raises(Permanent, match="cannot answer Length: the question brings no rule; configure a provider"):
        await OfflineEvaluator().parse(QUESTION, into=Length, model="x")


async def test_a_rule_that_finds_no_section_is_refused():
    """A question that is no rubric and a profile fails with the section that it lacks."""
    with pytest.raises(Permanent, match="section criteria is missing"):
        await OfflineEvaluator().parse(QUESTION, into=Length, model="x", offline=score_by_rule)


async def test_a_rule_whose_answer_has_another_form_is_refused():
    """It would fail alike at every attempt."""
    with pytest.raises(Permanent, match="offline-rubric-v1 cannot answer Length: "):
        await OfflineEvaluator().parse(QUESTION, into=Length, model="x", offline=lambda _: {"characters": "many"})


def test_offline_answers_only_where_nothing_is_configured():
    """A key or a base URL means a real provider; no failure of it leads back here."""
    make = partial(build, model=None, connect_timeout=1.0, timeout=1.0, max_connections=1)

    assert isinstance(make(api_key=None, base_url=None), OfflineEvaluator)
    assert not isinstance(make(api_key="k", base_url=None), OfflineEvaluator)
    assert not isinstance(make(api_key=None, base_url="http://127.0.0.1:9/v1"), OfflineEvaluator)
