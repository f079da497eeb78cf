"""What models cost: published prices, the operators' before them, and a price that nobody knows, which is not 0."""

import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.paths import ROOT
from workers.llm.admission.prices import Price
from workers.llm.calls import Kind, Usage
from workers.llm.ledger.prices import PriceList, cost_of
from workers.llm.ledger.published import Seller, published

NOW = datetime(2026, 11, 30, tzinfo=UTC)
OPENAI, OPENROUTER = Seller("openai", "https://api.openai.com/v1"), Seller("openrouter")
AT_HOME = Seller("compatible", "http://127.0.0.1:8080/v1")
OWN = Price(input_per_million=Decimal(1), output_per_million=Decimal(2))


def price(seller: Seller, model: str, kind: Kind = "chat", *, tokens: int = 1_000) -> Price | None:
    return published(seller, model, kind, input_tokens=tokens, at=NOW)


def test_a_model_of_a_known_provider_has_its_published_price():
    """By class: input, cached input, output, and the share that the batch lane pays."""
    assert price(OPENAI, "gpt-4o-mini-2024-07-18") == Price(
        input_per_million=Decimal("0.15"),
        cached_input_per_million=Decimal("0.075"),
        output_per_million=Decimal("0.6"),
        batch_discount=Decimal("0.5"),
    )
    embeds = price(OPENAI, "text-embedding-3-small", "embeddings")
    assert embeds is not None
    assert (embeds.input_per_million, embeds.output_per_million) == (Decimal("0.02"), Decimal(0))


@pytest.mark.parametrize(
    ("seller", "model", "kind"),
    [
        (OPENAI, "no-such-model", "chat"),
        (OPENAI, "text-embedding-3-small", "chat"),  # has no price of an answer
        (AT_HOME, "gpt-4o-mini", "chat"),  # a server of one's own that names its model so
        (Seller("compatible", "https://example.com/v1"), "gpt-4o-mini", "chat"),
        (Seller("github-copilot"), "gpt-4o", "chat"),  # listed without any price
        (Seller("perplexity"), "sonar", "chat"),  # costs something per request, too
        (Seller("no-such-kind"), "gpt-4o-mini", "chat"),
    ],
)
def test_what_the_table_cannot_say_is_unknown_and_never_nothing(seller, model, kind):
    """None: a budget of money refuses it, and no sum takes it for free."""
    assert price(seller, model, kind) is None


def test_a_compatible_provider_is_known_by_its_address():
    """Whoever sells there is paid."""
    assert price(Seller("compatible", "https://api.openai.com/v1"), "gpt-4o-mini") == price(OPENAI, "gpt-4o-mini")


def test_a_free_model_costs_nothing_by_its_name():
    """OpenRouter's suffix says it; then 0 is known."""
    free = price(OPENROUTER, "deepseek/deepseek-r1:free")

    assert free is not None
    assert free.input_per_million == free.output_per_million == 0


def test_a_call_of_very_many_tokens_costs_more_per_token():
    """All of its tokens cost the rate of its tier, from the first token beyond the start on."""
    below, above = price(OPENAI, "gpt-5.4", tokens=272_000), price(OPENAI, "gpt-5.4", tokens=272_001)

    assert below is not None
    assert above is not None
    assert (below.input_per_million, above.input_per_million) == (Decimal("2.5"), Decimal(5))
    assert (below.output_per_million, above.output_per_million) == (Decimal(15), Decimal("22.5"))


def test_a_price_list_tells_the_tier_of_each_call_apart():
    """What it remembers of one size is not told of another."""
    prices = PriceList({}, {"p": OPENAI})

    rates = [prices.of("p", "gpt-5.4", "chat", input_tokens=tokens) for tokens in (1, 271_999, 272_000, 272_001, 1)]

    assert [rate and rate.input_per_million for rate in rates] == [Decimal("2.5")] * 3 + [Decimal(5), Decimal("2.5")]


def test_operators_prices_come_first_and_a_star_is_any_other_model():
    """An operator's word counts before what is published; 0 of theirs is a price."""
    other = Price(input_per_million=Decimal(0))
    prices = PriceList({("p", "gpt-4o-mini"): OWN, ("p", "*"): other}, {"p": OPENAI, "q": OPENAI, "home": AT_HOME})

    assert prices.of("p", "gpt-4o-mini", "chat") is OWN
    assert prices.of("p", "gpt-4o", "chat") is other
    assert prices.of("q", "gpt-4o-mini", "chat") == price(OPENAI, "gpt-4o-mini")
    assert prices.of("home", "gpt-4o-mini", "chat") is None
    assert prices.of("unheard of", "gpt-4o-mini", "chat") is None


def test_the_offline_evaluator_costs_nothing():
    """It asks nobody, so its price is known."""
    found = PriceList({}, {"environment": Seller("offline")}).find("environment", "offline-rubric-v1", "chat")

    assert found is not None
    assert found.source == "offline"
    assert found.price.input_per_million == found.price.output_per_million == 0


def used(tokens: int, output: int = 0, cached: int | None = None, reasoning: int | None = None) -> Usage:
    return Usage(
        input_tokens=tokens, output_tokens=output, cached_input_tokens=cached, reasoning_tokens=reasoning, seconds=0
    )


def test_each_token_is_paid_once_and_by_its_class():
    """C22: cached input costs its own rate and no other, reasoning is part of the output and not paid again."""
    by_class = Price(
        input_per_million=Decimal(2), cached_input_per_million=Decimal("0.5"), output_per_million=Decimal(8)
    )

    assert cost_of(by_class, used(1_000_000)) == 2
    assert cost_of(by_class, used(1_000_000, cached=1_000_000)) == Decimal("0.5")
    assert cost_of(by_class, used(1_000_000, 1_000_000, cached=500_000, reasoning=900_000)) == Decimal("9.25")
    assert cost_of(OWN, used(1_000_000, cached=400_000)) == 1  # no rate of its own: not cheaper
    assert cost_of(None, used(1_000_000)) is None


_COUNTS = st.integers(min_value=-(2**31), max_value=2**31)
_RATES = st.decimals(min_value=0, max_value=1_000, places=4)


@given(st.tuples(_COUNTS, _COUNTS, _COUNTS), st.tuples(_RATES, st.none() | _RATES, _RATES))
def test_no_report_of_a_provider_makes_a_cost_negative(reported, rates):
    """C22: whatever a server reports, more cached than there was included, nobody is paid for calling it."""
    rate, cached_rate, output_rate = rates
    price = Price(input_per_million=rate, cached_input_per_million=cached_rate, output_per_million=output_rate)

    cost = cost_of(price, used(*reported))

    assert cost is not None
    assert cost >= 0


OFFLINE = """
import socket, sys
from datetime import UTC, datetime

def refuse(*_):
    raise AssertionError("the network was asked for")

socket.socket.connect = socket.getaddrinfo = refuse
import cli.provider
import workers.llm.ledger.prices
from workers.llm.ledger.published import Seller, published
assert "genai_prices" not in sys.modules, "imported before a price was asked for"
print(published(Seller("openai"), "gpt-4o-mini", "chat", input_tokens=1, at=datetime.now(UTC)).input_per_million)
"""


def test_prices_are_known_offline_and_loaded_only_when_asked_for():
    """A machine without a network knows them; a process without a provider spends no memory on them."""
    done = subprocess.run([sys.executable, "-c", OFFLINE], cwd=ROOT, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (0, "0.15\n"), done.stderr
