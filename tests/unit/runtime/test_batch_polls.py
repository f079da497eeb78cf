"""How often a provider's batch is looked at."""

from datetime import timedelta

import pytest

from workers.runtime.handler.batches import Polls


@pytest.mark.parametrize(("age", "seconds"), [(-5, 60), (0, 60), (599, 60), (1_200, 120), (6_000, 600), (86_400, 600)])
def test_a_batch_is_looked_at_after_a_tenth_of_its_age_within_bounds(age, seconds):
    """By default from a minute to ten."""
    assert Polls().delay(timedelta(seconds=age)) == timedelta(seconds=seconds)


def test_the_first_wait_is_the_shortest_whatever_the_longest_is():
    """An operator who sets only the first one above ten minutes waits no less than that."""
    polls = Polls(first=timedelta(hours=1))

    assert polls.delay(timedelta(minutes=5)) == polls.delay(timedelta(days=1)) == timedelta(hours=1)
