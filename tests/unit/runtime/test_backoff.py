"""The delay of a retry: limited, growing, random."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.runtime.backoff import BASE, CEILING, full_jitter, reconnect_seconds

draws = st.floats(0, 1, exclude_max=True)


@given(attempt=st.integers(-5, 100_000), drawn=draws)
def test_delay_lies_between_nothing_and_the_ceiling(attempt, drawn):
    """No number of attempts overflows or waits longer than the ceiling."""
    assert timedelta() <= full_jitter(attempt, draw=lambda: drawn) <= CEILING


@given(attempt=st.integers(1, 40), drawn=draws)
def test_the_bound_doubles_until_the_ceiling(attempt, drawn):
    """The upper limit of the delay doubles with each attempt."""
    window = min(CEILING, BASE * 2 ** (attempt - 1))

    assert full_jitter(attempt, draw=lambda: drawn) == window * drawn


@given(first=draws, second=draws)
def test_a_larger_draw_waits_longer(first, second):
    """The whole range is used, so that jobs that failed together are not retried together."""
    low, high = sorted((first, second))

    assert full_jitter(3, draw=lambda: low) <= full_jitter(3, draw=lambda: high)


@pytest.mark.parametrize(("attempt", "seconds"), [(1, 1), (2, 2), (3, 4), (9, 256), (10, 300), (50, 300)])
def test_middle_of_the_window_by_attempt(attempt, seconds):
    """Two seconds at first, ten minutes at most; half of that on average."""
    assert full_jitter(attempt, draw=lambda: 0.5) == timedelta(seconds=seconds)


def test_base_and_ceiling_are_the_callers():
    """A reconnect uses its own base and ceiling."""
    delay = full_jitter(5, draw=lambda: 0.5, base=timedelta(seconds=1), ceiling=timedelta(seconds=8))

    assert delay == timedelta(seconds=4)


@given(attempt=st.integers(1, 100_000), drawn=draws)
def test_nobody_waits_longer_than_two_seconds_for_a_postgres_that_is_back(attempt, drawn):
    """The first wait is at most one second, all later ones at most two."""
    assert 0 <= reconnect_seconds(attempt, draw=lambda: drawn) <= (1 if attempt == 1 else 2)
