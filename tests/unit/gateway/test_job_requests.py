"""The shape of a request for a job, and how its refusals name the fields."""

import pytest

from gateway.headers import _unquoted
from gateway.job_requests import JobRequest, in_request, job_in
from workers.runtime.enqueue_validation import EnqueueError
from workers.runtime.handler.registry import UnknownStageError
from workers.runtime.refusals import Forbidden, Problem


def test_only_what_was_given_is_an_option():
    """So that the defaults are those of the door."""
    wanted = JobRequest(stage="a", payload={"x": 1}, priority=3, on_failed="rerun")

    assert wanted.job() == {"x": 1, "priority": 3, "on_failed": "rerun"}


def test_an_option_inside_the_payload_is_refused():
    """Otherwise it would be one."""
    with pytest.raises(EnqueueError, match=r"payload\.priority is not a field of a payload; it is an option"):
        JobRequest(stage="a", payload={"priority": 1}).job()


@pytest.mark.parametrize(
    ("item", "line"),
    [
        (5, "job must be an object, got 5"),
        ({}, "stage is required, got nothing"),
        ({"stage": "a"}, "payload is required, got nothing"),
        ({"stage": 1, "payload": {}}, "stage must be a text, got 1"),
        ({"stage": "a", "payload": []}, "payload must be an object, got []"),
        ({"stage": "a", "payload": {}, "colour": "red"}, "colour is not a field, got 'red'"),
    ],
)
def test_an_item_that_is_no_job_is_refused(item, line):
    with pytest.raises(EnqueueError) as caught:
        job_in(item)

    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("error", "place", "line"),
    [
        (EnqueueError(Problem("prompt", "is required", "nothing")), None, "payload.prompt is required, got nothing"),
        (EnqueueError(Problem("prompt", "is required", "nothing")), 7, "7.payload.prompt is required, got nothing"),
        (EnqueueError(Problem("priority", "must be 1"), position=3), 7, "7.priority must be 1"),
        (EnqueueError("a row is missing", position=3), 7, "job 7: a row is missing"),
        (EnqueueError("a row is missing"), None, "a row is missing"),
        (UnknownStageError("x", ["a"]), 2, "2.stage is not registered, got 'x'; known stages: a"),
        (Forbidden("no"), 2, "no"),
    ],
)
def test_a_refusal_names_the_field_of_the_request(error, place, line):
    """And the place of the job."""
    assert str(in_request(error, place=place)) == line


@pytest.mark.parametrize(
    ("sent", "key"), [("k", "k"), (' "k" ', "k"), ('"a\\"b\\\\c"', 'a"b\\c'), ('"', '"'), ('a"b', 'a"b'), ('""', "")]
)
def test_a_key_in_a_header_may_be_quoted(sent, key):
    """As a string of structured fields."""
    assert _unquoted(sent) == key
