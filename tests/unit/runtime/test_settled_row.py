"""The row of a claimed job after each settlement."""

import uuid
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.lifecycle import Step
from tests.support.proving.models import PlainJob, TwoStepJob
from tests.support.settlements import SETTLEMENTS
from workers.runtime.handler.outcomes import Cancel, Complete, Fail, Release, Retry, Settlement, Snooze
from workers.runtime.store.settle import Settled
from workers.runtime.worker.settled_row import settled_row


def claimed(*, retry_count: int = 0, max_retries: int = 5, error_message: str | None = None) -> PlainJob:
    return PlainJob(
        id=uuid.uuid4(), version=7, retry_count=retry_count, max_retries=max_retries, error_message=error_message
    )


def decided(job: PlainJob | TwoStepJob, settlement: Settlement, *, drawn: float = 0.5, step: int = 0) -> Settled:
    lifecycle = type(job).__lifecycle__
    return settled_row(job, lifecycle.steps[step], lifecycle, settlement, draw=lambda: drawn)


@given(settlement=SETTLEMENTS, max_retries=st.integers(0, 5), spent=st.integers(0, 5), drawn=st.floats(0, 0.999))
def test_every_settlement_leaves_a_legal_row_under_its_fence(settlement, max_retries, spent, drawn):
    """The lifecycle allows the state, the fence is that of the claim, and no job exceeds its attempts."""
    job = claimed(retry_count=min(spent, max_retries), max_retries=max_retries)

    row = decided(job, settlement, drawn=drawn)

    lifecycle = PlainJob.__lifecycle__
    assert ("processing", row.status) in lifecycle.transitions
    assert (row.job_id, row.fence) == (job.id, 7)
    assert job.retry_count <= row.retry_count <= max_retries
    assert row.terminal == (row.status in lifecycle.terminal)
    assert row.delay is None or not row.terminal


@given(max_retries=st.integers(0, 5))
def test_retries_end_after_max_retries(max_retries):
    """After the first run and ``max_retries`` more, the job fails with the last error."""
    spent, runs = 0, 0
    row = decided(claimed(max_retries=max_retries), Retry("boom"))
    while not row.terminal:
        spent, runs = row.retry_count, runs + 1
        row = decided(claimed(retry_count=spent, max_retries=max_retries), Retry(f"boom {runs}"))

    assert runs == max_retries
    assert (row.status, row.action) == ("failed", "fail")
    assert row.error == (f"boom {runs}" if runs else "boom")


def test_a_retry_waits_by_the_backoff_of_its_attempt():
    """The third attempt waits up to eight seconds; here the draw is half of it."""
    row = decided(claimed(retry_count=2), Retry("boom"))

    assert (row.status, row.action, row.retry_count, row.delay) == ("pending", "retry", 3, timedelta(seconds=4))
    assert (row.error, row.reason, row.progress) == ("boom", "boom", 0)


@pytest.mark.parametrize("settlement", [Snooze(timedelta(seconds=3), "quota"), Release("drain")])
def test_snooze_and_release_spend_no_attempt_and_forget_no_error(settlement):
    """The job keeps its last error and its number of attempts."""
    row = decided(claimed(retry_count=2, error_message="once"), settlement)

    assert (row.status, row.retry_count, row.error, row.progress) == ("pending", 2, "once", 0)
    assert row.delay == (settlement.delay if isinstance(settlement, Snooze) else None)


def test_complete_clears_the_error_and_fills_the_progress():
    """Earlier errors are in the history, not in the row."""
    row = decided(claimed(retry_count=1, error_message="once"), Complete({"result": {"n": 1}}))

    assert (row.status, row.progress, row.error, row.retry_count) == ("completed", 100, None, 1)
    assert row.values == {"result": {"n": 1}}


def test_the_first_of_two_steps_completes_into_the_seconds_ready_state():
    """The job has not ended: its progress starts again."""
    job = TwoStepJob(id=uuid.uuid4(), version=2, retry_count=0, max_retries=5)

    first, second = decided(job, Complete()), decided(job, Complete(), step=1)

    assert (first.status, first.terminal, first.progress) == ("halfway", False, 0)
    assert (second.status, second.terminal, second.progress) == ("completed", True, 100)


def test_a_retry_of_the_second_step_goes_back_to_the_second():
    """The first step is not repeated."""
    job = TwoStepJob(id=uuid.uuid4(), version=4, retry_count=0, max_retries=5)

    assert decided(job, Retry("boom"), step=1).status == "halfway"


@pytest.mark.parametrize(
    ("settlement", "status", "action"), [(Fail("bad"), "failed", "fail"), (Cancel("bad"), "cancelled", "cancel")]
)
def test_fail_and_cancel_are_final_whatever_attempts_are_left(settlement, status, action):
    """The handler has decided that no retry helps."""
    row = decided(claimed(), settlement)

    assert (row.status, row.action, row.reason, row.retry_count, row.terminal) == (status, action, "bad", 0, True)


@pytest.mark.parametrize("settlement", [Fail("a\x00b\nc"), Cancel("a\x00b\nc"), Snooze(timedelta(), "a\x00b\nc")])
def test_what_a_handler_says_becomes_one_line_that_postgres_can_keep(settlement):
    """A reason that quotes a model's answer never makes Postgres refuse the outcome."""
    assert decided(claimed(), settlement).reason == "a\N{REPLACEMENT CHARACTER}b c"


def test_the_steps_name_every_state_they_pass():
    """The lifecycle's steps are the ones that handlers are registered for."""
    assert TwoStepJob.__lifecycle__.step("proving.second") == Step(
        "proving.second", "halfway", "finishing", "completed"
    )


def test_a_retry_waits_at_least_as_long_as_its_error_says():
    """This holds for every draw; the minimum grows with each attempt."""
    for spent in range(3):
        row = decided(claimed(retry_count=spent), Retry("too large", timedelta(seconds=30)))
        assert row.delay is not None
        assert row.delay >= timedelta(seconds=30) * (spent + 1)


@pytest.mark.parametrize("delay", [timedelta(0), timedelta(seconds=5), timedelta(hours=24)])
def test_a_retry_with_its_own_delay_waits_exactly_that_long(delay):
    """A handler with a schedule of its own decides; the attempts are counted as always."""
    row = decided(claimed(retry_count=4), Retry("not now", delay=delay), drawn=0.9)

    assert (row.delay, row.retry_count, row.status) == (delay, 5, "pending")
    assert decided(claimed(retry_count=5), Retry("not now", delay=delay)).status == "failed"
