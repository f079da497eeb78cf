"""Outcomes are plain values."""

from dataclasses import FrozenInstanceError
from datetime import timedelta

import pytest

from workers.runtime.handler.outcomes import Cancel, Complete, Fail, Release, Retry, Rows, Snooze

OUTCOMES = [
    Complete({"result": 1}),
    Snooze(timedelta(seconds=1), "wait"),
    Fail("no"),
    Cancel("no more"),
    Retry("again"),
    Release("drain"),
]


@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda outcome: type(outcome).__name__)
def test_an_outcome_cannot_change_after_it_was_returned(outcome):
    """The settled outcome is the returned one, even after a long wait for its commit."""
    with pytest.raises(FrozenInstanceError):
        setattr(outcome, outcome.__slots__[0], None)


def test_completing_needs_no_result():
    """A stage without own columns returns an empty Complete."""
    assert Complete() == Complete(values={}, write=None)


def test_an_outcome_names_its_writes_in_order():
    """There may be none, one, or several of both kinds."""

    async def one(session) -> None: ...

    async def many(session, rows) -> None: ...

    rows = Rows(many, [1, 2])

    assert Complete().writes == ()
    assert Complete(write=one).writes == (one,)
    assert Complete(write=rows).writes == (rows,)
    assert Complete(write=[one, rows]).writes == (one, rows)
