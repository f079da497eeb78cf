"""Failures of a long run: which are the items' own, and which are the provider's."""

import uuid

import pytest

from workers.longrun.held_failures import FIRST_ALIKE, LATER_ALIKE, HeldFailures
from workers.runtime.handler.errors import InvalidAnswers, Permanent, Refused, Retryable


class Finished:
    """An item with its result, or with the error that it met."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error


def succeeded() -> Finished:
    return Finished()


def failed(error: Exception) -> Finished:
    return Finished(error)


def held(*, succeeded: bool) -> HeldFailures[Finished]:
    return HeldFailures(lambda one: one.error, succeeded=succeeded)


def test_failures_between_successes_are_the_records_own() -> None:
    """They are held until somebody succeeds, then kept."""
    failures = held(succeeded=False)
    bad = [failed(Permanent("refused the content")) for _ in range(FIRST_ALIKE - 1)]

    assert failures.sift(bad) == []
    failures.raise_if_many()
    good = succeeded()

    assert failures.sift([good]) == [*bad, good]
    assert failures.rest() == []


@pytest.mark.parametrize("error", [Permanent("refused the credentials (HTTP 401)"), Retryable("provider failed")])
def test_first_ten_failing_alike_are_the_providers(error: Exception) -> None:
    """None of them is kept as failed, and its error is the job's."""
    failures = held(succeeded=False)

    assert failures.sift([failed(error) for _ in range(FIRST_ALIKE)]) == []
    with pytest.raises(type(error), match=str(error)[:10]):
        failures.raise_if_many()


def test_a_server_that_is_down_says_so_in_many_ways() -> None:
    """Timeouts, lost connections and 5xx are alike; ids and counts in a refusal make no difference."""
    down = held(succeeded=False)
    down.sift([failed(Retryable(f"trouble {n}")) for n in range(FIRST_ALIKE)])
    refusing = held(succeeded=False)
    refusing.sift([failed(Permanent(f"no such model, request {uuid.uuid4()}")) for _ in range(FIRST_ALIKE)])

    with pytest.raises(Retryable):
        down.raise_if_many()
    with pytest.raises(Permanent):
        refusing.raise_if_many()


def test_refused_content_is_never_the_providers_trouble() -> None:
    """A provider that refuses content works, even if nothing has succeeded yet. What was held is kept, too."""
    failures = held(succeeded=False)
    unclear = failed(Retryable("provider failed (HTTP 503)"))
    refused = [failed(Refused("provider refused the content")) for _ in range(2 * LATER_ALIKE)]

    assert failures.sift([unclear, *refused]) == [unclear, *refused]
    failures.raise_if_many()
    assert failures.rest() == []


def test_invalid_answers_are_the_records_own_once_the_model_gave_a_valid_one() -> None:
    """Ten at the very end do not fail a finished job. If the model never gives the form, they are the job's error."""
    after, never = held(succeeded=True), held(succeeded=False)
    bad = [failed(InvalidAnswers("model 'm' gave two invalid answers: not JSON")) for _ in range(LATER_ALIKE)]

    assert after.sift(bad) == bad
    after.raise_if_many()
    assert after.rest() == []
    assert never.sift(bad[:FIRST_ALIKE]) == []
    with pytest.raises(InvalidAnswers):
        never.raise_if_many()


def test_run_after_a_good_one_gives_its_first_failures_the_same_patience() -> None:
    """Ten neighbours that are bad alike do not fail a job that judged others before."""
    failures = held(succeeded=True)
    failures.sift([failed(Permanent("no")) for _ in range(LATER_ALIKE - 1)])
    failures.raise_if_many()

    failures.sift([failed(Permanent("no"))])

    with pytest.raises(Permanent):
        failures.raise_if_many()


def test_first_ten_failing_differently_are_ten_bad_records() -> None:
    """Each for a reason of its own is no provider's trouble."""
    failures = held(succeeded=False)
    bad = [failed(Permanent(reason)) for reason in "abcdefghij"]

    assert failures.sift(bad) == bad
    failures.raise_if_many()


def test_neighbours_may_be_bad_alike_but_not_fifty_of_them() -> None:
    """After a success more is needed to blame the provider; what was judged beside them is kept first."""
    failures = held(succeeded=False)
    good = succeeded()
    failures.sift([good])
    failures.sift([failed(Permanent("too long")) for _ in range(LATER_ALIKE - 1)])
    failures.raise_if_many()

    failures.sift([failed(Permanent("too long"))])

    with pytest.raises(Permanent):
        failures.raise_if_many()


def test_job_of_which_nothing_was_ever_judged_fails_with_what_all_say() -> None:
    """However few there are. If the job judged others before, the rest are bad records."""
    first, later = held(succeeded=False), held(succeeded=True)
    bad = [failed(Permanent("no")) for _ in range(3)]
    first.sift(bad)
    later.sift(bad)

    with pytest.raises(Permanent, match="no"):
        first.rest()
    assert later.rest() == bad


def test_provider_that_leaves_towards_the_end_takes_no_records_along() -> None:
    """Ten that fail alike at the very end, worth another try, are tried again by another run."""
    failures = held(succeeded=True)
    failures.sift([failed(Retryable("gone")) for _ in range(FIRST_ALIKE - 1)])
    assert len(failures.rest()) == FIRST_ALIKE - 1

    failures = held(succeeded=False)
    failures.sift([succeeded(), *(failed(Retryable("gone")) for _ in range(FIRST_ALIKE))])
    failures.raise_if_many()
    with pytest.raises(Retryable):
        failures.rest()
