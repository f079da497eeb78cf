"""Errors before the database is asked: one line with the field, the rule and the value."""

import re
from uuid import UUID

import pytest
from sqlalchemy.orm import Session

import tests.support.proving.stages  # noqa: F401 - registers the stages that are asked for
from workers.runtime.enqueue import EnqueueError, enqueue, enqueue_many
from workers.runtime.handler.naming import NAME_RULE
from workers.runtime.handler.registry import UnknownStageError


def refusal(payload, **options) -> str:
    """Return the error for this job; the session has no database, so none was asked."""
    with pytest.raises(EnqueueError) as caught:
        enqueue(Session(), "proving.plain", payload, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("payload", "options", "message"),
    [
        ({"seconds": "long"}, {}, "seconds must be a valid number, unable to parse string as a number, got 'long'"),
        ({"colour": "red"}, {}, "colour is not a field of this stage"),
        ({"seconds": "long", "colour": "red"}, {}, "colour is not a field of this stage"),
        ({}, {"priority": 0}, "priority must be greater than or equal to 1, got 0"),
        ({}, {"priority": 11}, "priority must be less than or equal to 10, got 11"),
        ({}, {"priority": True}, "priority must be a whole number, got True"),
        ({}, {"idempotency_key": ""}, f"idempotency_key must have 1 to 255 characters, {NAME_RULE}, got ''"),
        ({}, {"due_at": "soon"}, "due_at must be a valid datetime"),
    ],
)
def test_the_first_thing_wrong_is_named(payload, options, message):
    """The line has field, rule and value, so that a person can correct it without reading code."""
    assert refusal(payload, **options).startswith(message)


@pytest.mark.parametrize(("payload", "got"), [([], "[]"), ("text", "'text'"), (None, "nothing"), (7, "7")])
def test_a_payload_that_is_no_object_is_refused_as_one(payload, got):
    """Every door accepts JSON, and JSON has other values than objects."""
    message = f"payload must be an object, got {got}"

    assert refusal(payload) == message
    with pytest.raises(EnqueueError, match=re.escape(message)):
        enqueue_many(Session(), "proving.plain", [{}, payload])


def test_a_missing_field_is_named():
    """The line names the missing field."""
    with pytest.raises(EnqueueError, match=r"^profile_id is required, got nothing$"):
        enqueue(Session(), "scoring.score", {"prompt": "judge this"})


def test_a_long_value_is_cut_short():
    """A payload is never quoted completely."""
    message = refusal({"seconds": "x" * 10_000})

    assert len(message) < 200
    assert message.endswith("…")


def test_one_bad_job_of_many_is_named_by_its_position():
    """No job of the batch is enqueued; the error says which one is wrong."""
    with pytest.raises(EnqueueError, match=r"^job 2: colour is not a field of this stage, got 'red'$"):
        enqueue_many(Session(), "proving.plain", [{}, {}, {"colour": "red"}, {}])


def test_an_unknown_stage_is_refused_with_the_known_ones():
    """A misspelt stage never becomes a row that no worker performs."""
    with pytest.raises(UnknownStageError, match=r"'proving.plan' is not registered; known stages: .*proving.plain"):
        enqueue(Session(), "proving.plan", {})


def test_no_jobs_are_no_work():
    """An empty batch sends no statement."""
    assert enqueue_many(Session(), "proving.plain", []) == []


def test_an_unknown_field_beside_a_missing_one_is_named_with_the_one_that_was_meant():
    """The unknown field is often the missing one, misspelt."""
    payload = {"profile_id": str(UUID(int=1)), "promt": "x"}

    with pytest.raises(EnqueueError) as caught:
        enqueue(Session(), "scoring.score", payload)

    assert str(caught.value) == "promt is not a field of this stage, got 'x'; did you mean prompt?"
