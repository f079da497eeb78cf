"""Failures of a long run: which are caused by the items, and which by the provider."""

import uuid

import pytest

from workers.longrun.held_failures import MAX_FIRST_ALIKE, MAX_LATER_ALIKE, HeldFailures
from workers.runtime.handler.errors import InvalidAnswers, Permanent, Refused, Retryable


class Finished:
    """An item with its result or its error."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error


def succeeded() -> Finished:
    return Finished()


def failed(error: Exception) -> Finished:
    return Finished(error)


def held(*, succeeded: bool) -> HeldFailures[Finished]:
    return HeldFailures(lambda one: one.error, succeeded=succeeded)


def test_failures_between_successes_are_the_records_own() -> None:
    """They are held until an item succeeds, and then kept."""
    failures = held(succeeded=False)
    bad = [failed(Permanent("refused the content")) for _ in range(MAX_FIRST_ALIKE - 1)]

    assert failures.sift(bad) == []
    failures.raise_if_many()
    good = succeeded()

    assert failures.sift([good]) == [*bad, good]
    assert failures.rest() == []


@pytest.mark.parametrize("error", [Permanent("refused the credentials (HTTP 401)"), Retryable("provider failed")])
def test_first_ten_failing_alike_are_the_providers(error: Exception) -> None:
    """None of them is kept as failed, and the job fails with their error."""
    failures = held(succeeded=False)

    assert failures.sift([failed(error) for _ in range(MAX_FIRST_ALIKE)]) == []
    with pytest.raises(type(error), match=str(error)[:10]):
        failures.raise_if_many()


def test_a_server_that_is_down_says_so_in_many_ways() -> None:
    """Timeouts, lost connections and 5xx are one kind. Ids and counts in a message make no other kind."""
    down = held(succeeded=False)
    down.sift([failed(Retryable(f"trouble {n}")) for n in range(MAX_FIRST_ALIKE)])
    refusing = held(succeeded=False)
    refusing.sift([failed(Permanent(f"no such model, request {uuid.uuid4()}")) for _ in range(MAX_FIRST_ALIKE)])

    with pytest.raises(Retryable):
        down.raise_if_many()
    with pytest.raises(Permanent):
        refusing.raise_if_many()


def test_refused_content_is_never_the_providers_trouble() -> None:
    """A provider that refuses content is working, even before the first success. Held failures are kept too."""
    failures = held(succeeded=False)
    unclear = failed(Retryable("provider failed (HTTP 503)"))
    refused = [failed(Refused("provider refused the content")) for _ in range(2 * MAX_LATER_ALIKE)]

    assert failures.sift([unclear, *refused]) == [unclear, *refused]
    failures.raise_if_many()
    assert failures.rest() == []


def test_invalid_answers_are_the_records_own_once_the_model_gave_a_valid_one() -> None:
    """Ten at the end do not fail the job. If the model never answered in the requested form, they do."""
    after, never = held(succeeded=True), held(succeeded=False)
    bad = [failed(InvalidAnswers("model 'm' gave two invalid answers: not JSON")) for _ in range(MAX_LATER_ALIKE)]

    assert after.sift(bad) == bad
    after.raise_if_many()
    assert after.rest() == []
    assert never.sift(bad[:MAX_FIRST_ALIKE]) == []
    with pytest.raises(InvalidAnswers):
        never.raise_if_many()


def test_run_after_a_successful_one_holds_as_many_first_failures() -> None:
    """Ten similar failures in a row do not fail a job that succeeded with other items."""
    failures = held(succeeded=True)
    failures.sift([failed(Permanent("no")) for _ in range(MAX_LATER_ALIKE - 1)])
    failures.raise_if_many()

    failures.sift([failed(Permanent("no"))])

    with pytest.raises(Permanent):
        failures.raise_if_many()


def test_first_ten_failing_differently_are_ten_bad_records() -> None:
    """Failures with different reasons are not caused by the provider."""
    failures = held(succeeded=False)
    bad = [failed(Permanent(reason)) for reason in "abcdefghij"]

    assert failures.sift(bad) == bad
    failures.raise_if_many()


def test_neighbours_may_be_bad_alike_but_not_fifty_of_them() -> None:
    """After a success, 50 failures of one kind are needed. Other results are kept first."""
    failures = held(succeeded=False)
    good = succeeded()
    failures.sift([good])
    failures.sift([failed(Permanent("too long")) for _ in range(MAX_LATER_ALIKE - 1)])
    failures.raise_if_many()

    failures.sift([failed(Permanent("too long"))])

    with pytest.raises(Permanent):
        failures.raise_if_many()


def test_job_without_any_success_fails_with_the_common_error() -> None:
    """This holds for any number of items. If others succeeded before, the failures are kept as bad records."""
    first, later = held(succeeded=False), held(succeeded=True)
    bad = [failed(Permanent("no")) for _ in range(3)]
    first.sift(bad)
    later.sift(bad)

    with pytest.raises(Permanent, match="no"):
        first.rest()
    assert later.rest() == bad


def test_provider_that_becomes_unavailable_at_the_end_fails_no_records() -> None:
    """Ten retryable failures at the very end are left to another run."""
    failures = held(succeeded=True)
    failures.sift([failed(Retryable("gone")) for _ in range(MAX_FIRST_ALIKE - 1)])
    assert len(failures.rest()) == MAX_FIRST_ALIKE - 1

    failures = held(succeeded=False)
    failures.sift([succeeded(), *(failed(Retryable("gone")) for _ in range(MAX_FIRST_ALIKE))])
    failures.raise_if_many()
    with pytest.raises(Retryable):
        failures.rest()
