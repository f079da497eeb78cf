"""How long a job waits for an identical one."""

from datetime import timedelta

import pytest

from workers.scoring.answers import wait_for


@pytest.mark.parametrize(
    ("elapsed", "expected"), [(-3, 0.5), (0, 0.5), (0.2, 0.5), (2, 2), (4.9, 4.9), (90, 5), (100_000, 5)]
)
def test_wait_grows_with_the_flight_within_bounds(elapsed, expected):
    """As long again as it has lasted, never hot, never long; a flight from a later clock counts as new."""
    assert wait_for(timedelta(seconds=elapsed)) == timedelta(seconds=expected)
