"""Spend is the sum of the ledger, by whatever is asked for, and every call is in it once."""

import asyncio
import uuid
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from tests.support.admission import NOON, PRICE, call, usage
from workers.llm.admission.postgres_admission import PostgresAdmission
from workers.llm.calls import NotAdmittedError, Usage
from workers.llm.ledger.prices import KnownPrices, cost_of
from workers.llm.ledger.published import Seller
from workers.llm.ledger.spend import By, SpendFilter, spend
from workers.llm.operate.calls import attempts_of, calls_of_job, list_calls

CENT: dict[str, Any] = {"tokens": 2_000, "output": 4_000}
ALL = SpendFilter()


@pytest.fixture
async def session(database):
    """A transaction on the test's own database."""
    async with database.session() as session:
        yield session


@pytest.fixture
def ledger(rows, clock):
    """One call in every state."""
    settled, unpriced, lost, failed, under_way = (
        call(**CENT), call(model="unknown", **CENT), call(stage="a.b", **CENT), call(**CENT), call(**CENT),
    )  # fmt: skip
    rows.admit(settled, unpriced, lost, failed, under_way)
    rows.settle(settled, input=1_000, cached=400, output=100, reasoning=60, seconds=2)
    rows.settle(unpriced, input=7, output=7, seconds=1)
    rows.settle(lost, became="orphaned", failure="its process ended")
    rows.settle(failed, became="failed", failure="HTTP 429")
    cached = call(model="m")
    rows.ask(
        "SELECT llm.admit(%s::jsonb, %s::jsonb)",
        '[{"provider": "p", "model": "m", "stage": "scoring.score", "lane": "normal"}]',
        f'[{{"id": "{cached.id}", "path": 1, "route": "r", "kind": "chat", "input": 10, "cached": true, '
        '"input_used": 10, "output_used": 10}]',
    )
    return rows


async def test_every_state_counts_for_what_it_is(ledger, session):
    """Lost answers at their estimate, cached ones nothing (C22), unknown prices beside the sum, reservations apart."""
    total = (await spend(session, [], ALL)).total

    assert (total.calls, total.answered, total.cached, total.failed, total.orphaned, total.under_way) == (
        6,
        2,
        1,
        1,
        1,
        1,
    )
    assert total.unpriced == 1
    assert (total.usd, total.orphaned_usd, total.reserved_usd) == (Decimal("0.01084"), Decimal("0.01"), Decimal("0.01"))
    assert (total.input_tokens, total.output_tokens) == (1_000 + 7 + 2_000, 100 + 7 + 4_000)
    assert (total.cached_input_tokens, total.reasoning_tokens, total.seconds) == (400, 60, 3.0)


async def test_parts_add_up_to_the_whole(ledger, session):
    """However it is cut, nothing is counted twice and nothing is left out."""
    cuts: list[list[By]] = [["model"], ["stage", "state"], ["day", "provider", "lane"], ["tenant"], ["job", "profile"]]
    for by in cuts:
        found = await spend(session, by, ALL)

        assert sum(row.usd for row in found.rows) == found.total.usd
        assert sum(row.calls for row in found.rows) == found.total.calls
        assert found.left_out == 0


async def test_days_are_those_of_the_zone(rows, clock, session):
    """C12: 23:30 in UTC is the next day in Tokyo, and the filter's times are moments."""
    for hour in (10, 23):
        clock.set(NOON.replace(hour=hour, minute=30))
        one = call(**CENT)
        rows.admit(one)
        rows.settle(one, input=2_000, output=4_000)

    in_utc = await spend(session, ["day"], ALL)
    in_tokyo = await spend(session, ["day"], ALL, zone="Asia/Tokyo")
    late = await spend(session, ["day"], SpendFilter(since=NOON, until=NOON + timedelta(hours=12)))

    assert [(row.by["day"], row.calls) for row in in_utc.rows] == [(NOON.replace(hour=0), 2)]
    assert [row.calls for row in in_tokyo.rows] == [1, 1]
    assert [row.by["day"].isoformat() for row in in_tokyo.rows] == [
        "2026-11-30T00:00:00+09:00",
        "2026-12-01T00:00:00+09:00",
    ]
    assert late.total.calls == 1


async def test_most_expensive_first_and_the_rest_is_told(rows, clock, session):
    """Rows beyond the bound are counted, and are in the total."""
    for number in range(5):
        one = call(model=f"m{number}", tokens=1_000 * (number + 1))
        rows.admit(one)
        rows.settle(one, input=1_000 * (number + 1), output=0)

    found = await spend(session, ["model"], ALL, most=2)

    assert [row.by["model"] for row in found.rows] == ["m4", "m3"]
    assert (found.left_out, found.total.calls) == (3, 5)


@pytest.mark.parametrize("cached", [None, 0, 400, 5_000])
def test_the_ledger_writes_what_the_price_says(rows, clock, cached):
    """C22: the statement and the pure function agree, also where more is reported as cached than there was."""
    one = call(**CENT)
    rows.admit(one)

    rows.settle(one, input=1_000, cached=cached, output=100)

    [row] = rows.ask("SELECT usd FROM llm.calls")
    usage = Usage(input_tokens=1_000, cached_input_tokens=cached, output_tokens=100, seconds=0)
    assert row["usd"] == cost_of(PRICE, usage)


async def test_a_job_tells_what_each_attempt_used(rows, clock, session):
    """By attempt and version, with who answered; lost and unpriced calls are told apart."""
    job, other = uuid.uuid4(), uuid.uuid4()
    first, second, third = (
        call(job=job, version=2, **CENT),
        call(job=job, version=4, **CENT),
        call(job=other, version=1),
    )
    unknown = call(model="unknown", job=job, version=4, **CENT)
    rows.admit(first, second, third, unknown)
    rows.settle(first, became="orphaned", failure="its process ended")
    rows.settle(second, input=2_000, output=4_000, served="m-2")
    rows.settle(unknown, input=1, output=1)

    lost, answered = attempts_of(await calls_of_job(session, job))

    assert (lost.version, lost.calls, lost.orphaned, lost.usd, lost.answered_by) == (2, 1, 1, Decimal("0.01"), [])
    assert (answered.version, answered.calls, answered.unpriced, answered.usd) == (4, 2, 1, Decimal("0.01"))
    assert answered.answered_by == ["p/m-2", "p/unknown"]


async def test_calls_are_listed_page_by_page_newest_first(rows, clock, session):
    """A page goes on after the last id of the one before, also among calls of one moment."""
    calls = [call(model=f"m{number}") for number in range(5)]
    rows.admit(*calls)

    first = await list_calls(session, ALL, limit=2)
    second = await list_calls(session, ALL, limit=2, after=first[-1].id)
    third = await list_calls(session, ALL, limit=2, after=second[-1].id)

    assert [one.id for one in (*first, *second, *third)] == sorted((one.id for one in calls), reverse=True)
    assert [one.model for one in await list_calls(session, SpendFilter(model="m3"))] == ["m3"]
    assert await list_calls(session, ALL, state="settled") == []


async def test_a_process_knows_prices_before_its_first_call_and_follows_changes(database, rows):
    """Nobody takes a price for unknown that was not read yet; while it is read again, the old one holds."""
    sellers = {"local": Seller("compatible", "http://127.0.0.1:1/v1")}
    prices = KnownPrices(database, lambda: sellers, fresh_seconds=0)
    rows.ask(
        "INSERT INTO llm.prices (provider, model, input_per_million, output_per_million) VALUES ('local', '*', 3, 0)"
    )

    async def price() -> Decimal | None:
        await prices.ready()
        found = prices.of("local", "m", "chat")
        return None if found is None else found.input_per_million

    assert await price() == 3
    rows.ask("UPDATE llm.prices SET input_per_million = 4")
    async with asyncio.timeout(30):
        while (now := await price()) != 4:
            assert now == 3
            await asyncio.sleep(0.01)
    await prices.aclose()


async def test_calls_are_priced_by_what_is_published_and_refused_where_nobody_knows(database, rows):
    """C8: under a budget of money a call of unknown price is not made, and the line says how to say the price."""
    sellers = {"main": Seller("openai", "https://api.openai.com/v1"), "local": Seller("compatible", "http://h/v1")}
    prices = KnownPrices(database, lambda: sellers)
    admission = PostgresAdmission(database, None, prices)
    rows.budget(usd=1)
    known, unknown = call("main", "gpt-4o-mini", tokens=1_000_000), call("local", "qwen3-8b")

    try:
        await admission.reserve(known)
        await admission.settle(known, usage(1_000_000, 0, cached_input_tokens=500_000))
        with pytest.raises(NotAdmittedError) as refused:
            await admission.reserve(unknown)
    finally:
        await admission.aclose()
        await prices.aclose()

    [row] = rows.ask("SELECT * FROM llm.calls")
    assert (row["input_price"], row["output_price"], row["usd"]) == (Decimal("0.15"), Decimal("0.6"), Decimal("0.1125"))
    assert "`gristmill llm prices set --provider local --model qwen3-8b --input USD --output USD`" in str(refused.value)
