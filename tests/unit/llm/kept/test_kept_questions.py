"""The fingerprint of a question: what is the same question, and whose."""

import uuid
from datetime import timedelta
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel

from workers.llm.calls import Caller
from workers.llm.kept import Question, question_of
from workers.runtime.handler.ports import Message


class Score(BaseModel):
    """A form."""

    score: int


class Verdict(BaseModel):
    """Another form."""

    verdict: str


class Reworded(Score):
    """The first form, to questions of another version."""

    prompt_version: ClassVar[int] = 2


PLAIN: dict[str, Any] = {
    "identity": "p|m",
    "messages": [Message(role="user", content="Judge.")],
    "into": Score,
    "parameters": {},
}


def fingerprint(**changes):
    asked = PLAIN | changes
    return question_of(asked.pop("identity"), asked.pop("messages"), **asked).fingerprint


@pytest.mark.parametrize(
    "changes",
    [
        {"identity": "p|n"},
        {"messages": [Message(role="user", content="Judge!")]},
        {"messages": [Message(role="system", content="Judge.")]},
        {"into": Verdict},
        {"into": Reworded},
        {"parameters": {"temperature": 0}},
    ],
)
def test_any_difference_makes_another_question(changes):
    """The provider and model, a message, its role, the form, the version of the prompt, a parameter."""
    assert fingerprint() != fingerprint(**changes)


def test_the_same_question_has_the_same_fingerprint():
    """However its parameters are ordered, and however long its answer may be shared."""
    first = fingerprint(parameters={"a": 1, "b": 2})

    assert first == fingerprint(parameters={"b": 2, "a": 1}, share_for=timedelta(hours=1))
    assert len(first) == 32


def test_questions_of_two_owners_never_meet():
    """Nor do those of an owner and of nobody, whoever computes the fingerprint."""
    owners = (None, uuid.uuid4(), uuid.uuid4(), uuid.UUID(int=0))

    found = {Question(fingerprint=b"f" * 32, caller=Caller(owner_id=owner)).owned for owner in owners}

    assert len(found) == len(owners)
