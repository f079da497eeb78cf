"""How long a job waits for an identical job."""

from datetime import timedelta

import pytest

from workers.scoring.answers import wait_before_look


@pytest.mark.parametrize(
    ("elapsed", "expected"), [(-3, 0.5), (0, 0.5), (0.2, 0.5), (2, 2), (4.9, 4.9), (90, 5), (100_000, 5)]
)
def test_wait_grows_with_the_time_already_asked_within_bounds(elapsed, expected):
    """The wait is as long as the question has been asked so far, 0.5 to 5 s. A start in the future counts as now."""
    assert wait_before_look(timedelta(seconds=elapsed)) == timedelta(seconds=expected)
