"""What a refusal says, what a price makes of a call, how many are gathered. Pure."""

import asyncio
from datetime import timedelta
from decimal import Decimal

import pytest

from tests.support.admission import PRICE, call
from workers.llm.admission.prices import NoPrices
from workers.llm.admission.refusals import MAX_BUDGET_DELAY, PERSON_DELAY, UNKNOWN_DELAY, limit_name, refusal_of
from workers.llm.admission.together import Together

LIMIT = {"kind": "limit", "id": "1", "subject": "", "measure": "requests", "at_most": 1_500, "window_seconds": 60,
         "provider": "openai", "model": None, "stage": None, "owner_id": None, "used": 1_500, "wait": 1.5}  # fmt: skip
BUDGET = {"kind": "budget", "id": "1", "name": "team", "then": "stop", "usd": 5, "used_usd": 4.996, "tokens": None,
          "used_tokens": 0, "wait": 100_000.0, "until": "2026-12-01T00:00:00+00:00"}  # fmt: skip


@pytest.mark.parametrize(
    ("cause", "name"),
    [
        ({}, "requests per minute of provider openai"),
        ({"model": "gpt-5"}, "requests per minute of model gpt-5 of provider openai"),
        ({"provider": None, "model": "gpt-5"}, "requests per minute of model gpt-5"),
        ({"provider": None}, "requests per minute of all providers"),
        ({"measure": "input_tokens", "window_seconds": 86_400}, "input tokens per day of provider openai"),
        ({"measure": "tokens", "window_seconds": 10}, "tokens per 10 seconds of provider openai"),
        ({"measure": "tokens", "window_seconds": 900}, "tokens per 15 minutes of provider openai"),
        ({"measure": "concurrency", "window_seconds": None}, "calls at once of provider openai"),
        ({"stage": "s", "subject": "o"}, "requests per minute of provider openai, stage s, owner o"),
    ],
)
def test_a_limit_is_called_by_what_it_is(cause, name):
    """As an operator set it."""
    assert limit_name(LIMIT | cause) == name


def test_a_full_window_says_how_much_and_for_how_long():
    """C24: the limit, not another one."""
    refusal = refusal_of(LIMIT)

    assert str(refusal) == "requests per minute of provider openai: 1,500 of 1,500 used"
    assert refusal.delay == timedelta(seconds=1.5)
    assert not refusal.gives_back


def test_without_a_known_time_it_is_asked_again_soon():
    """Calls at once end when they end."""
    refusal = refusal_of(LIMIT | {"measure": "concurrency", "window_seconds": None, "wait": None})

    assert (refusal.delay, refusal.gives_back) == (UNKNOWN_DELAY, True)


def test_what_will_never_fit_says_what_to_change():
    """Nobody waits for it without knowing."""
    refusal = refusal_of(LIMIT | {"never": True, "need": 2_000, "wait": None})

    assert str(refusal).endswith("at most 1,500, and this call alone needs 2,000; raise the limit or lower max_tokens")
    assert refusal.delay == PERSON_DELAY
    assert refusal.key != refusal_of(LIMIT).key


def test_a_spent_budget_says_until_when():
    """And is looked at before that: a person may raise it."""
    refusal = refusal_of(BUDGET)

    assert str(refusal) == (
        "budget 'team' has no room for this call: $5.00 of $5.00 used until 2026-12-01 00:00 UTC; raise it or wait"
    )
    assert (refusal.delay, refusal.is_budget, refusal.batch_may, refusal.gives_back) == (
        MAX_BUDGET_DELAY,
        True,
        False,
        False,
    )
    assert refusal_of(BUDGET | {"then": "batch"}).batch_may
    assert refusal_of(BUDGET | {"wait": None}).gives_back
    both = refusal_of(BUDGET | {"tokens": 100, "used_tokens": 99, "until": None, "wait": None})
    assert "$5.00 of $5.00 and 99 of 100 tokens used for good" in str(both)


def test_an_unknown_price_says_how_to_say_it():
    """C8."""
    refusal = refusal_of(BUDGET | {"unpriced": True, "provider": "local", "model": "m", "wait": None})

    assert "price of model 'm' of provider 'local' is not known" in str(refusal)
    assert "`gristmill llm prices set --provider local --model m --input USD --output USD`" in str(refusal)
    assert refusal.is_budget


def test_a_cooldown_says_why():
    """What the provider said."""
    refusal = refusal_of({"kind": "cooldown", "provider": "p", "model": "", "reason": "429", "wait": 90})

    assert str(refusal) == "provider p has refused calls (429): nobody calls it for 90 seconds"
    assert refusal.limit == "cooldown of provider p"


def test_the_batch_lane_has_its_own_price():
    """Half of it, or what the provider grants; kept as it was at the moment of the call."""
    one = call(tokens=1_000, output=1_000)

    assert PRICE.on("normal").most_of(one) == Decimal("0.003")
    assert PRICE.on("batch").most_of(one) == Decimal("0.0015")
    assert PRICE.on("batch").cached_input_per_million == Decimal("0.05")
    assert NoPrices().of("p", "m", "chat") is None


async def test_what_comes_at_once_is_handed_over_together():
    """The first batch has all of one turn; what comes during a flush is the next; none is larger than it may be."""
    batches: list[list[int]] = []
    going = asyncio.Event()

    async def flush(items: list[int]) -> None:
        batches.append(items)
        await going.wait()

    together = Together(flush, most=3)
    together.submit(1)
    together.submit(2)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    together.submit(3, 4, 5, 6)
    assert not await together.finish(within=0.01)
    going.set()

    assert await together.finish(within=10)
    assert batches == [[1, 2], [3, 4, 5], [6]]
