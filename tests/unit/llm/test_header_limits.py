"""Limits that providers tell in headers: learned where the figures agree, and nowhere else."""

import asyncio
from datetime import timedelta

import pytest

from workers.llm.header_limits import MIN_ANSWERS, HeaderLimits, limit_in_headers

MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)


def headers(most, left, reset, measure="requests"):
    return {
        f"x-ratelimit-limit-{measure}": str(most),
        f"x-ratelimit-remaining-{measure}": str(left),
        f"x-ratelimit-reset-{measure}": reset,
    }


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (headers(60, 59, "1s"), (60, MINUTE)),
        (headers(60, 45, "15s"), (60, MINUTE)),
        (headers(60, 0, "1m0s"), (60, MINUTE)),
        (headers(14_400, 14_370, "2m59.56s"), (14_400, DAY)),
        (headers(60, 59, "30s"), None),  # a window that begins anew at once
        (headers(60, 60, "0s"), None),
        (headers(60, 61, "1s"), None),
        (headers(0, 0, "1s"), None),
        (headers("many", 1, "1s"), None),
        (headers(60, 59, "soon"), None),
        (headers("9" * 40, 1, "1s"), None),
        ({"x-ratelimit-limit-requests": "60"}, None),
        ({}, None),
    ],
)
def test_a_window_follows_from_what_comes_back(given, told):
    """15 of 60 in 15 s: all of them in a minute."""
    assert limit_in_headers(given, "requests") == told


class Learned(list[tuple[object, ...]]):
    """What was learned."""

    error: Exception | None = None

    async def __call__(self, provider, model, *, measure, at_most, window):
        if self.error:
            raise self.error
        self.append((provider, model, measure, at_most, window))


async def test_a_limit_is_learned_once_enough_answers_agree():
    """Several, over some seconds; once an hour at most, until the provider tells another."""
    learned = Learned()
    told = HeaderLimits("p", learned)
    for second in range(60):
        told.note("m", headers(1_000, 1_000 - second - 1, f"{(second + 1) * 60}ms", "tokens"), now=float(second))
    await asyncio.sleep(0)
    assert learned == [("p", "m", "tokens", 1_000, MINUTE)]

    for second in range(60, 80):
        told.note("m", headers(2_000, 1_000, "30s", "tokens"), now=float(second))
    await asyncio.sleep(0)
    assert learned[1:] == [("p", "m", "tokens", 2_000, MINUTE)]


async def test_a_fixed_window_teaches_nothing():
    """Its figures look like an hour's for a moment, and contradict each other then."""
    learned = Learned()
    told = HeaderLimits("p", learned)
    for tenth in range(1_200):
        elapsed = tenth / 10 % 60
        told.note("m", headers(300, 299 - int(elapsed * 4), f"{60 - elapsed:.1f}s"), now=tenth / 10)
    await asyncio.sleep(0)

    assert learned == []


async def test_what_could_not_be_kept_is_told_again():
    """Postgres was away."""
    learned = Learned()
    learned.error = ConnectionError("gone")
    told = HeaderLimits("p", learned)
    for second in (0, 4, 8, 12, 16):
        told.note("m", headers(60, 45, "15s"), now=float(second))
    await asyncio.sleep(0)
    assert MIN_ANSWERS == 5
    learned.error = None

    told.note("m", headers(60, 45, "15s"), now=20.0)
    await asyncio.sleep(0)

    assert len(learned) == 1
