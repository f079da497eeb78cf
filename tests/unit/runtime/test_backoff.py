"""How long a retry waits: bounded, growing, spread."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.runtime.backoff import BASE, CEILING, full_jitter, soon

draws = st.floats(0, 1, exclude_max=True)


@given(attempt=st.integers(-5, 100_000), drawn=draws)
def test_delay_lies_between_nothing_and_the_ceiling(attempt, drawn):
    """No number of attempts overflows, and none waits longer than the ceiling."""
    assert timedelta() <= full_jitter(attempt, draw=lambda: drawn) <= CEILING


@given(attempt=st.integers(1, 40), drawn=draws)
def test_the_bound_doubles_until_the_ceiling(attempt, drawn):
    """The window that a delay is drawn from grows by two with each attempt."""
    window = min(CEILING, BASE * 2 ** (attempt - 1))

    assert full_jitter(attempt, draw=lambda: drawn) == window * drawn


@given(first=draws, second=draws)
def test_a_larger_draw_waits_longer(first, second):
    """The whole window is used, so that jobs which failed together do not return together."""
    low, high = sorted((first, second))

    assert full_jitter(3, draw=lambda: low) <= full_jitter(3, draw=lambda: high)


@pytest.mark.parametrize(("attempt", "seconds"), [(1, 1), (2, 2), (3, 4), (9, 256), (10, 300), (50, 300)])
def test_middle_of_the_window_by_attempt(attempt, seconds):
    """Two seconds at first, ten minutes at most; half of that on average."""
    assert full_jitter(attempt, draw=lambda: 0.5) == timedelta(seconds=seconds)


def test_base_and_ceiling_are_the_callers():
    """A reconnect waits by a scale of its own."""
    delay = full_jitter(5, draw=lambda: 0.5, base=timedelta(seconds=1), ceiling=timedelta(seconds=8))

    assert delay == timedelta(seconds=4)


@given(attempt=st.integers(1, 100_000), drawn=draws)
def test_nobody_waits_longer_than_two_seconds_for_a_postgres_that_is_back(attempt, drawn):
    """However often it was away, and at first no longer than one."""
    assert 0 <= soon(attempt, draw=lambda: drawn) <= (1 if attempt == 1 else 2)
