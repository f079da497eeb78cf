"""Budgets: reserved and checked in one statement, by the wall clock of their zone, told once, never overdrawn."""

import asyncio
import json
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.admission import NOON, call, usage
from workers.llm.calls import NotAdmittedError

# By the test's price list.
CENT: dict[str, Any] = {"tokens": 2_000, "output": 4_000}
COST = Decimal("0.01")
EXAMPLES = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


SLOW = """
    CREATE FUNCTION public.be_slow() RETURNS trigger LANGUAGE plpgsql AS
      'BEGIN PERFORM pg_sleep(0.01); RETURN NULL; END';
    CREATE TRIGGER be_slow BEFORE INSERT ON llm.calls FOR EACH STATEMENT EXECUTE FUNCTION public.be_slow()
"""


@pytest.fixture
def slow_reservations(rows) -> Iterator[None]:
    """Let time pass between the look at the totals and their update, so that a race is not a matter of luck."""
    rows.ask(SLOW)
    yield
    rows.ask("DROP TRIGGER be_slow ON llm.calls")
    rows.ask("DROP FUNCTION public.be_slow")


def admitted(verdicts) -> list[bool]:
    return [verdict is None for verdict in verdicts]


def test_the_first_call_of_a_user_is_under_the_budget(rows, clock):
    """C1: its total is made by the statement that admits the first call, and counts it."""
    rows.budget(usd=Decimal("0.025"), scope="tenant", scope_value=str(uuid.UUID(int=1)))
    rows.ask("DELETE FROM llm.budget_totals")
    alice, bob = uuid.UUID(int=1), uuid.UUID(int=2)

    verdicts = rows.admit(*(call(owner=alice, **CENT) for _ in range(4)), call(owner=bob, **CENT))

    assert admitted(verdicts) == [True, True, False, False, True]
    assert rows.totals()["b"]["reserved_usd"] == 2 * COST


async def test_64_writers_at_once_never_overspend(rows, start, slow_reservations):
    """C1: whoever asks at once, together they reserve no more than there is: the worst case is one call's estimate.

    What a call costs beyond its estimate is only known when it ends: that is all that a budget can be passed by.
    """
    rows.budget(usd=1)
    processes = [await start() for _ in range(8)]

    async def spend(process) -> int:
        made = 0
        for _ in range(5):
            one = call(**CENT)
            try:
                await process.reserve(one)
            except NotAdmittedError:
                continue
            made += 1
            await process.settle(one, usage(2_000, 4_000))
        return made

    made = await asyncio.gather(*(spend(processes[n % 8]) for n in range(64)))

    assert sum(made) == 100
    total = rows.totals()["b"]
    assert (total["reserved_usd"], total["spent_usd"]) == (0, 1)
    assert rows.differences() == []


def test_what_was_not_used_can_be_spent(rows, clock):
    """Usage takes the place of the estimate, in the window of the reservation."""
    rows.budget(usd=Decimal("0.01"))
    first = call(**CENT)
    assert admitted(rows.admit(first, call(**CENT))) == [True, False]

    rows.settle(first, input=1_000, cached=500, output=100)

    # 500 at 1, 500 at 0.1 and 100 at 2, per million.
    assert rows.totals()["b"]["spent_usd"] == Decimal("0.00075")
    assert admitted(rows.admit(call(tokens=1_000, output=4_000), call(**CENT))) == [True, False]


@pytest.mark.parametrize(
    ("scope", "value", "inside"),
    [
        ("all", None, {}),
        ("stage", "scoring.score", {"stage": "scoring.score"}),
        ("tenant", str(uuid.UUID(int=1)), {"owner": uuid.UUID(int=1)}),
        ("project", str(uuid.UUID(int=2)), {"project": uuid.UUID(int=2)}),
        ("profile", str(uuid.UUID(int=3)), {"profile": uuid.UUID(int=3)}),
    ],
)
def test_a_budget_pays_for_its_scope(rows, clock, scope, value, inside):
    """And for nobody else."""
    rows.budget(tokens=100, scope=scope, scope_value=value)
    outside = call(stage=None, tokens=101)

    verdicts = rows.admit(call(**({"stage": "s"} | inside), tokens=101), outside)

    assert admitted(verdicts) == [False, scope != "all"]


def test_an_unknown_price_is_refused_under_a_money_budget_alone(rows, clock):
    """C8: it is not free: without a price nobody knows what it would cost. The refusal says how to say it."""
    free = call("p", "unknown-1")
    assert rows.admit(free) == [None]
    rows.settle(free, input=5, output=5)
    [row] = rows.ask("SELECT state, usd, estimated_usd FROM llm.calls")
    assert row == {"state": "unpriced", "usd": None, "estimated_usd": None}

    rows.budget("tokens", tokens=1_000)
    assert rows.admit(call("p", "unknown-1")) == [None]
    rows.budget("warns", usd=1, then="warn")
    assert rows.admit(call("p", "unknown-1")) == [None]
    rows.budget("money", usd=1)
    [cause] = rows.admit(call("p", "unknown-1"))

    assert cause is not None
    assert (cause["name"], cause["unpriced"], cause["model"]) == ("money", True, "unknown-1")


def test_usage_that_the_provider_does_not_say_is_as_estimated(rows, clock):
    """C16: an answer without usage is not an answer for nothing."""
    rows.budget(usd=1)
    one = call(**CENT)
    rows.admit(one)

    rows.settle(one)

    assert rows.ask("SELECT usd, input_tokens FROM llm.calls") == [{"usd": COST, "input_tokens": None}]
    assert rows.totals()["b"]["spent_usd"] == COST


def test_a_budget_then_stops_until_its_window_ends(rows, clock):
    """C24: the refusal says until when, and then it goes on without anybody's doing."""
    rows.budget(usd=Decimal("0.01"), zone="Asia/Tokyo")
    one = call(**CENT)
    rows.admit(one)
    rows.settle(one)

    [cause] = rows.admit(call(**CENT))
    assert cause is not None
    midnight = datetime(2026, 12, 1, tzinfo=ZoneInfo("Asia/Tokyo"))
    assert datetime.fromisoformat(cause["until"]) == midnight
    assert cause["wait"] == (midnight - NOON).total_seconds()
    clock.advance(cause["wait"] - 0.001)
    assert admitted(rows.admit(call(**CENT))) == [False]
    clock.advance(0.001)

    assert admitted(rows.admit(call(**CENT), call(**CENT))) == [True, False]


def test_a_budget_then_slows_down(rows, clock):
    """Once it is spent, each minute admits a thousandth of it, and one call at least."""
    rows.budget(usd=10, then="slow")
    first = call(tokens=10_000_000)
    rows.admit(first)
    rows.settle(first)

    small = [call(tokens=4_000) for _ in range(4)]
    assert admitted(rows.admit(*small)) == [True, True, False, False]  # 0.004 each, 0.01 a minute
    [cause] = rows.admit(call(tokens=4_000))
    assert cause is not None
    assert cause["wait"] == 60
    clock.advance(60)
    assert admitted(rows.admit(call(tokens=100_000), call(tokens=1))) == [True, False]


def test_gates_see_the_room_of_a_budget(rows, clock):
    """As many as fit; of a slow one that is spent one a minute; of one that only warns any number."""
    rows.budget("stops", usd=Decimal("0.035"), scope="stage", scope_value="stops")
    rows.budget("slows", tokens=12_000, scope="stage", scope_value="slows", then="slow")
    rows.budget("warns", tokens=0, scope="stage", scope_value="warns", then="warn")
    paths = json.dumps(
        [{"provider": "p", "model": "m", "stage": stage, "input": 2_000, "output": 4_000, "usd": 0.01}
         for stage in ("stops", "slows", "warns")]
    )  # fmt: skip
    room = "SELECT calls, round(wait) AS wait FROM llm.capacity(%s::jsonb)"

    assert [row["calls"] for row in rows.ask(room, paths)] == [3, 2, None]
    rows.admit(*(call(**CENT, stage=stage) for stage in ("stops", "slows") for _ in range(3)))
    assert [tuple(row.values()) for row in rows.ask(room, paths)] == [(0, 43_200), (0, 60), (None, None)]
    clock.advance(60)
    assert [row["calls"] for row in rows.ask(room, paths)] == [0, 1, None]


def test_a_budget_then_leaves_the_batch_lane(rows, clock):
    """The refusal says that the batch lane may go on; its calls are paid at its rate."""
    rows.budget(usd=Decimal("0.01"), then="batch")
    rows.admit(call(**CENT))

    normal, batched = rows.admit(call(**CENT), call(**CENT, lane="batch"))

    assert normal is not None
    assert normal["then"] == "batch"
    assert batched is None


def test_a_budget_that_only_warns_refuses_nothing(rows, clock):
    """It counts on."""
    rows.budget(usd=Decimal("0.01"), then="warn")

    assert admitted(rows.admit(*(call(**CENT) for _ in range(3)))) == [True] * 3
    assert rows.totals()["b"]["reserved_usd"] == 3 * COST


def test_the_strictest_of_several_budgets_decides(rows, clock):
    """All of them or none: the others have spent nothing."""
    rows.budget("wide", usd=100)
    rows.budget("narrow", tokens=6_000, scope="stage", scope_value="scoring.score")

    assert admitted(rows.admit(call(**CENT), call(**CENT), call(**CENT, stage="other"))) == [True, False, True]
    assert rows.totals()["wide"]["reserved_usd"] == 2 * COST


def test_each_threshold_is_told_once_per_window(rows, clock):
    """80 %, and when there is no room any more; a row of each is kept, and the next window begins anew."""
    rows.budget(usd=Decimal("0.10"), warn_at=[Decimal("0.5"), Decimal("0.8")])
    thresholds = "SELECT threshold FROM llm.budget_warnings ORDER BY created_at, threshold"

    rows.admit(*(call(**CENT) for _ in range(4)))
    assert rows.ask(thresholds) == []
    rows.admit(call(**CENT))
    assert [row["threshold"] for row in rows.ask(thresholds)] == [Decimal("0.5")]
    for _ in range(8):
        rows.admit(call(**CENT))
    assert [row["threshold"] for row in rows.ask(thresholds)] == [Decimal("0.5"), Decimal("0.8"), 1]
    clock.advance(86_400)
    rows.admit(*(call(**CENT) for _ in range(6)))

    assert [row["threshold"] for row in rows.ask(thresholds)] == [Decimal("0.5"), Decimal("0.8"), 1, Decimal("0.5")]


def test_a_new_budget_starts_from_the_ledger(rows, clock):
    """What was spent in its window before it was set counts, orphans at their estimates."""
    settled, orphaned, running, failed = (call(**CENT) for _ in range(4))
    rows.admit(call(**CENT))
    clock.advance(86_400)
    rows.admit(settled, orphaned, running, failed, call(**CENT, stage="other"))
    rows.settle(settled, input=1_000, output=0)
    rows.settle(orphaned, became="orphaned")
    rows.settle(failed, became="failed")

    rows.budget("day", usd=1, scope="stage", scope_value="scoring.score")
    rows.budget("week", tokens=1_000_000, window="week")

    day, week = rows.totals()["day"], rows.totals()["week"]
    assert (day["reserved_usd"], day["spent_usd"]) == (COST, Decimal("0.001") + COST)
    assert (week["reserved_tokens"], week["spent_tokens"]) == (3 * 6_000, 1_000 + 6_000)
    assert rows.differences() == []
    rows.ask("UPDATE llm.budgets SET scope = 'all', scope_value = NULL WHERE name = 'day'")
    assert rows.totals()["day"]["reserved_usd"] == 2 * COST


ZONES = ["UTC", "Asia/Tokyo", "America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "America/Havana",
         "Asia/Kathmandu", "America/Sao_Paulo"]  # fmt: skip


def expected_start(at: datetime, window: str, zone: str) -> tuple[int, int, int]:
    """Return the date on which a window begins by the wall clock, as Python's zones have it."""
    date = at.astimezone(ZoneInfo(zone)).date()
    if window == "week":
        date -= timedelta(days=date.weekday())
    return (date.year, date.month, 1 if window == "month" else date.day)


@EXAMPLES
@given(
    at=st.datetimes(datetime(2015, 1, 1), datetime(2030, 1, 1)),  # noqa: DTZ001 - made aware below
    zone=st.sampled_from(ZONES),
    window=st.sampled_from(["day", "week", "month"]),
)
def test_a_window_is_that_of_the_wall_clock(rows, at, zone, window):
    """C12: of its own zone, whatever it does with its clock: each moment is in the window of its date."""
    at = at.replace(tzinfo=ZoneInfo("UTC"))
    [row] = rows.ask(
        "SELECT llm.window_start(%s, %s, %s) AS start, llm.window_end(%s, %s, %s) AS until",
        window, zone, at, window, zone, at,
    )  # fmt: skip

    start, until = (row[name].astimezone(ZoneInfo(zone)) for name in ("start", "until"))
    assert (start.year, start.month, start.day) == expected_start(at, window, zone)
    assert at < until
    assert start <= at or (start - at) < timedelta(hours=1)  # where midnight comes twice
    [row] = rows.ask("SELECT llm.window_start(%s, %s, %s) AS start", window, zone, until)
    assert row["start"] == until or abs(row["start"] - until) <= timedelta(hours=1)


@pytest.mark.parametrize(
    ("zone", "before", "after"),
    [
        # 23 and 25 hours, in the zone of the budget; UTC's midnight means nothing there.
        ("Europe/Berlin", "2026-03-28T22:59:59Z", "2026-03-28T23:00:00Z"),
        ("Europe/Berlin", "2026-03-29T21:59:59Z", "2026-03-29T22:00:00Z"),
        ("Europe/Berlin", "2026-10-25T22:59:59Z", "2026-10-25T23:00:00Z"),
        ("Asia/Tokyo", "2026-11-30T14:59:59Z", "2026-11-30T15:00:00Z"),
        ("America/New_York", "2026-12-01T04:59:59Z", "2026-12-01T05:00:00Z"),
    ],
)
def test_a_day_ends_at_midnight_of_its_zone(rows, clock, zone, before, after):
    """C12: no job resets anything; the second before belongs to one day, the next one to another."""
    clock.set(datetime.fromisoformat(before))
    rows.budget(usd=COST, zone=zone)

    assert admitted(rows.admit(call(**CENT), call(**CENT))) == [True, False]
    clock.set(datetime.fromisoformat(after))
    assert admitted(rows.admit(call(**CENT), call(**CENT))) == [True, False]


@pytest.mark.parametrize(
    ("window", "end"),
    [("day", "2027-01-01T00:00:00Z"), ("week", "2027-01-04T00:00:00Z"), ("month", "2027-01-01T00:00:00Z")],
)
def test_windows_end_at_their_edges(rows, clock, window, end):
    """The year's last Thursday, which is in a week of both years."""
    clock.set(datetime.fromisoformat("2026-12-31T18:00:00Z"))
    rows.budget(usd=COST, window=window)
    rows.admit(call(**CENT))

    clock.set(datetime.fromisoformat(end) - timedelta(milliseconds=1))
    assert admitted(rows.admit(call(**CENT))) == [False]
    clock.set(datetime.fromisoformat(end))
    assert admitted(rows.admit(call(**CENT))) == [True]


def test_a_call_that_ends_in_the_next_window_is_paid_by_its_own(rows, clock):
    """C12: reserved before midnight, settled after: no window loses it or has it twice."""
    clock.set(datetime.fromisoformat("2026-11-30T23:59:59Z"))
    rows.budget(usd=1)
    late = call(**CENT)
    rows.admit(late)
    clock.advance(2)
    rows.admit(call(**CENT))

    rows.settle(late, input=2_000, output=0)

    totals = rows.ask("SELECT window_start, reserved_usd, spent_usd FROM llm.budget_totals ORDER BY 1")
    assert [(row["reserved_usd"], row["spent_usd"]) for row in totals] == [(0, Decimal("0.002")), (COST, 0)]
    assert rows.differences() == []


def test_a_total_budget_never_ends(rows, clock):
    """Whatever the time."""
    rows.budget(usd=COST, window="total")
    rows.admit(call(**CENT))
    clock.advance(400 * 86_400)

    [cause] = rows.admit(call(**CENT))

    assert cause is not None
    assert cause["until"] is None


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "Europe/Berlinn"])
def test_an_unknown_zone_is_no_budget(rows, zone):
    """It is refused when it is set, not when the first call asks."""
    with pytest.raises(Exception, match="time zone"):
        rows.budget(usd=1, zone=zone)
