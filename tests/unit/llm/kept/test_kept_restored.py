"""A kept answer is read again as it was when it came."""

import json
import uuid
from typing import Any

import pytest
from pydantic import BaseModel

from workers.llm.calls import Call, Caller, Usage
from workers.llm.kept import AnswerToKeep, Asking, KeptAnswer, Question, answer_to_keep, being_asked, restore
from workers.llm.wire import read
from workers.runtime.handler.rule_based import NOTE

JOB, OTHER = uuid.uuid4(), uuid.uuid4()


class Score(BaseModel):
    """A form."""

    score: int


def body(content: str, finish: str = "stop") -> dict[str, Any]:
    return {"model": "m-1", "choices": [{"message": {"content": content}, "finish_reason": finish}]}


def kept(raw, job_id=JOB):
    return KeptAnswer(raw=raw, model="m-1", prompt_tokens=7, completion_tokens=3, seconds=0.5, job_id=job_id)


def question():
    return Question(fingerprint=b"f" * 32, caller=Caller(job_id=JOB, version=2), into=Score)


def test_a_kept_body_is_the_answer_again():
    """With its evidence, model and tokens; the job's own is not marked."""
    answer = restore(kept(body('{"score": 4}')), question(), Score)

    assert answer is not None
    assert (answer.value, answer.model, answer.prompt_tokens) == (Score(score=4), "m-1", 7)
    assert answer.cached_from is None


def test_an_answer_that_another_job_paid_for_is_marked():
    """By the job."""
    answer = restore(kept(body('{"score": 4}'), OTHER), question(), Score)

    assert answer is not None
    assert answer.cached_from == OTHER


def test_an_answer_by_rules_is_restored_too():
    """It is no body of a provider."""
    answer = restore(kept({"note": NOTE, "model": "offline", "evaluation": {"score": 2}}), question(), Score)

    assert answer is not None
    assert answer.value == Score(score=2)


@pytest.mark.parametrize(
    "raw",
    [body("no"), body('{"score": "much"}'), body('{"other": 1}'), {}, {"choices": []}, {"note": NOTE}],
)
def test_what_is_no_valid_answer_any_more_is_none(raw):
    """A form that has changed refuses it, and it is asked again."""
    assert restore(kept(raw), question(), Score) is None


def settled(raw: dict[str, Any]) -> AnswerToKeep | None:
    call = Call(
        caller=Caller(job_id=JOB), kind="chat", provider="p", model="m", route="r", input_tokens=1, output_tokens=1
    )
    return answer_to_keep(call, read(json.dumps(raw)), Usage(input_tokens=7, output_tokens=3, seconds=0.5))


def test_a_valid_answer_is_kept_with_its_call():
    """Under the call's id; whoever keeps later has nothing left to write."""
    asking = Asking(question(), path=[{"provider": "first"}])
    being_asked.set(asking)

    answer = settled(body('{"score": 4}'))

    assert answer is not None
    assert answer is asking.kept
    assert (answer.answer.model, answer.answer.path) == ("m-1", [{"provider": "first"}])


def test_an_invalid_answer_is_not_kept():
    """It is asked again; so is one that was cut."""
    asking = Asking(question())
    being_asked.set(asking)

    assert settled(body("I think so.")) is None
    assert settled(body('{"sco', "length")) is None
    assert asking.kept is None


def test_nothing_is_kept_of_a_call_that_answers_no_question():
    """Embeddings, a probe, calls outside of runs."""
    being_asked.set(None)

    assert settled(body('{"score": 4}')) is None
