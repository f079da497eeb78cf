"""Windows: never more than the limit in any of them, hardly less under load, each for itself, none ever reset."""

import uuid
from datetime import datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.admission import call

# An example has its own limit: what another has left in the tables does not count for it.
EXAMPLES = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)

LIMITS = st.tuples(
    st.sampled_from(["requests", "input_tokens", "output_tokens", "tokens", "requested_tokens"]),
    st.integers(1, 40),
    st.sampled_from([1, 2, 10, 60, 90, 3_600]),
)
# How much of the window passes, and how many ask then.
STEPS = st.lists(st.tuples(st.floats(0, 0.7), st.integers(0, 30)), min_size=5, max_size=40)


def requested(tokens: int, output: int) -> int:
    """Return what providers count that charge for what is requested: our estimate is a third of the bytes."""
    return -(-tokens * 3 // 4) + output


def most_in_any_window(admitted: list[tuple[datetime, int]], window: timedelta) -> int:
    """Return the most that any window has: one that ends with an admission has the most."""
    return max((sum(n for at, n in admitted if end - window < at <= end) for end, _ in admitted), default=0)


@EXAMPLES
@given(limit=LIMITS, steps=STEPS, size=st.integers(1, 5))
def test_no_window_has_more_than_its_limit(rows, clock, limit, steps, size):
    """C5, C23: whenever calls come, in every window of that length, wherever it begins."""
    measure, at_most, window = limit
    rows.clear()
    rows.limit(measure, at_most, window)
    sizes = {"requests": 1, "tokens": 2 * size, "requested_tokens": requested(size, size)}
    need = sizes.get(measure, size)
    admitted: list[tuple[datetime, int]] = []

    for passes, count in steps:
        clock.advance(passes * window)
        verdicts = rows.admit(*(call(tokens=size, output=size) for _ in range(count))) if count else []
        admitted += [(clock.now(), need)] * verdicts.count(None)

    assert most_in_any_window(admitted, timedelta(seconds=window)) <= at_most


@EXAMPLES
@given(window=st.sampled_from([1, 7, 60, 86_400]), begin=st.floats(0, 1, exclude_max=True))
def test_a_window_ends_after_its_length_and_not_before(rows, clock, window, begin):
    """C23: wherever in a bucket it begins; a 64th of it later at most."""
    rows.clear()
    rows.limit("requests", 1, window)
    clock.advance(begin * window)

    assert rows.admit(call()) == [None]
    clock.advance(window - 0.001)
    assert rows.admit(call())[0] is not None
    clock.advance(window / 64 + 0.002)
    assert rows.admit(call()) == [None]


@settings(EXAMPLES, max_examples=8)
@given(at_most=st.integers(2, 60), window=st.sampled_from([1, 10, 60, 3_600]), finest=st.integers(60, 140))
def test_under_load_a_window_is_used(rows, clock, at_most, window, finest):
    """C4, C23: at least 95 % of what may be called is, if there is always somebody who asks."""
    rows.clear()
    rows.limit("requests", at_most, window)
    windows = 6

    for _ in range(windows * finest):
        clock.advance(window / finest)
        while None in rows.admit(*(call() for _ in range(8))):
            pass
    [row] = rows.ask("SELECT count(*)::int AS n FROM llm.calls")

    assert row["n"] >= 0.95 * at_most * windows


@EXAMPLES
@given(limit=LIMITS, before=st.floats(0, 1), size=st.integers(1, 4))
def test_a_refused_call_is_admitted_at_the_time_it_was_told(rows, clock, limit, before, size):
    """C24: a refusal names its limit and the next free time: then there is room, a moment before there is none."""
    rows.clear()
    _, at_most, window = limit
    limit_id = rows.limit("tokens", at_most * size, window)
    rows.admit(*(call(tokens=size) for _ in range((at_most + 1) // 2)))
    clock.advance(before * window / 2)
    rows.admit(*(call(tokens=size) for _ in range(at_most)))

    [cause] = rows.admit(call(tokens=size))
    assert cause is not None
    assert (cause["id"], cause["measure"], cause["window_seconds"]) == (str(limit_id), "tokens", window)
    assert 0 < cause["wait"] <= window * 66 / 64
    clock.advance(max(cause["wait"] - 0.002, 0))
    [still] = rows.admit(call(tokens=size))
    clock.advance(0.002)

    assert still is not None
    assert rows.admit(call(tokens=size)) == [None]


def test_each_limit_has_a_window_of_its_own(rows, clock):
    """C4: requests and tokens are counted and end apart; a full window of one says nothing of the other."""
    minute, second = rows.limit("requests", 2, 60), rows.limit("tokens", 100, 1)

    assert rows.admit(call(tokens=50), call(tokens=50)) == [None, None]
    clock.advance(2)
    [cause] = rows.admit(call(tokens=50))

    assert cause is not None
    assert cause["id"] == str(minute)
    assert (rows.used(minute), rows.used(second)) == (2, 100)


def test_questions_do_not_prolong_a_window(rows, clock):
    """C5: whoever asks in vain moves nothing: the window ends when it would have ended."""
    rows.limit("requests", 1, 64)
    rows.admit(call())

    for _ in range(64):
        clock.advance(1)
        assert rows.admit(call())[0] is not None
    clock.advance(1.01)

    assert rows.admit(call()) == [None]


def test_a_refusal_changes_nothing(rows, clock):
    """C3: a call that one limit refuses uses no unit of another, writes no row and costs no budget."""
    wide, narrow, at_once = rows.limit("requests", 100), rows.limit("tokens", 15), rows.limit("concurrency", 5, None)
    rows.budget(usd=10)
    assert rows.admit(call(tokens=10)) == [None]
    before = [rows.ask(f"SELECT * FROM llm.{table} ORDER BY 1, 2") for table in TABLES]

    verdicts = rows.admit(*(call(tokens=10) for _ in range(20)))

    assert {verdict["id"] for verdict in verdicts if verdict} == {str(narrow)}
    assert None not in verdicts
    assert [rows.ask(f"SELECT * FROM llm.{table} ORDER BY 1, 2") for table in TABLES] == before
    assert (rows.used(wide), rows.used(at_once)) == (1, 1)


TABLES = ("calls", "window_counts", "budget_totals", "budget_warnings", "cooldowns", "limits", "budgets")


def test_tokens_count_before_the_answer(rows, clock):
    """C2: five calls at once against 100 tokens per minute: what they may use is reserved, not what they used."""
    limit = rows.limit("tokens", 100)

    verdicts = rows.admit(*(call(tokens=20, output=20) for _ in range(5)))

    assert [verdict is None for verdict in verdicts] == [True, True, False, False, False]
    assert rows.used(limit) == 80


def test_what_a_call_did_not_use_is_free_again(rows, clock):
    """C2: settled to its usage, in the bucket of its reservation; more than the estimate counts, too."""
    limit = rows.limit("tokens", 100)
    small, large = call(tokens=20, output=20), call(tokens=20, output=20)
    rows.admit(small, large)
    clock.advance(10)

    rows.settle(small, input=18, output=2)
    rows.settle(large, input=20, output=45)

    assert rows.used(limit) == 20 + 65
    assert rows.ask("SELECT count(*)::int AS n FROM llm.window_counts WHERE limit_id = %s", limit) == [{"n": 1}]


def test_what_was_requested_stays_counted_whatever_was_used(rows, clock):
    """Providers that charge a request's size and max_tokens give nothing back; a call not made counts for nothing."""
    limit_id = rows.limit("requested_tokens", 1_000, 60)
    answered, refused, released = (call(tokens=120, output=200) for _ in range(3))
    assert rows.admit(answered, refused, released) == [None, None, None]

    rows.settle(answered, input=5, output=5)
    rows.settle(refused, became="failed")
    rows.settle(released, became="released")

    assert rows.used(limit_id) == 2 * (90 + 200)
    rows.ask("UPDATE llm.limits SET window_seconds = 61")  # a limit about something else is counted from the ledger
    assert rows.used(limit_id) == 2 * (90 + 200)


def test_calls_at_once_are_those_under_way(rows, clock):
    """However they end they are free again, once; without a call under way nobody is told a time."""
    limit = rows.limit("concurrency", 2, None)
    first, second, third = call(), call(), call()
    assert rows.admit(first, second) == [None, None]
    [cause] = rows.admit(third)
    assert cause is not None
    assert cause["wait"] is None

    rows.settle(first, input=1)
    rows.settle(first, input=1)
    rows.settle(second, became="orphaned")

    assert rows.used(limit) == 0
    assert rows.admit(third, call(), call())[:2] == [None, None]


@pytest.mark.parametrize(
    ("selector", "inside", "outside"),
    [
        ({"provider": "p"}, call("p", "x"), call("q")),
        ({"model": "m"}, call("q", "m"), call("p", "n")),
        ({"provider": "p", "model": "m"}, call("p", "m"), call("p", "n")),
        ({"stage": "scoring.score"}, call(), call(stage="assessment.assess")),
        ({"owner_id": uuid.UUID(int=7)}, call(owner=uuid.UUID(int=7)), call(owner=uuid.UUID(int=8))),
    ],
    ids=["provider", "model", "both", "stage", "owner"],
)
def test_a_limit_is_about_the_calls_that_it_names(rows, clock, selector, inside, outside):
    """Provider, model, stage, owner, and any of them together."""
    rows.limit("requests", 0, **selector)

    refused, passed = rows.admit(inside, outside)

    assert refused is not None
    assert passed is None


def test_each_owner_has_as_much(rows, clock):
    """One tenant at its limit keeps back nobody else."""
    alice, bob = uuid.uuid4(), uuid.uuid4()
    rows.limit("requests", 2, per_owner=True)

    verdicts = rows.admit(*(call(owner=alice) for _ in range(4)), *(call(owner=bob) for _ in range(2)), call())

    assert [verdict is None for verdict in verdicts] == [True, True, False, False, True, True, True]
    assert verdicts[2] is not None
    assert verdicts[2]["subject"] == str(alice)


def test_nobody_is_overtaken_in_one_question(rows, clock):
    """A large call that has no room keeps the smaller ones behind it from taking what it waits for."""
    rows.limit("tokens", 100, provider="p")

    verdicts = rows.admit(call(tokens=60), call(tokens=60), call(tokens=10), call("q", tokens=60))

    assert [verdict is None for verdict in verdicts] == [True, False, False, True]


def test_a_call_larger_than_its_limit_keeps_nobody_else_back(rows, clock):
    """It will never fit, and says so; the others pass."""
    rows.limit("tokens", 100)

    never, fits = rows.admit(call(tokens=101), call(tokens=100))

    assert never is not None
    assert (never["never"], never["need"]) == (True, 101)
    assert fits is None


def test_a_new_limit_knows_what_was_called_before(rows, clock):
    """C6: what is counted follows from the ledger: a limit that is set, or set anew, does not begin at nothing."""
    old, settled, failed, running = (call(tokens=10, output=10) for _ in range(4))
    rows.admit(old)
    clock.advance(3_600)
    rows.admit(settled, failed, running)
    rows.settle(settled, input=7, output=2)
    rows.settle(failed, became="failed")

    requests, tokens = rows.limit("requests", 10), rows.limit("tokens", 100)
    at_once = rows.limit("concurrency", 10, None)

    assert (rows.used(requests), rows.used(tokens), rows.used(at_once)) == (3, 9 + 20, 2)
    rows.ask("UPDATE llm.limits SET window_seconds = 7200 WHERE id = %s", requests)
    assert rows.used(requests) == 4
    rows.ask("UPDATE llm.limits SET at_most = 3 WHERE id = %s", requests)
    assert rows.used(requests) == 4
    assert rows.admit(call())[0] is not None


def test_what_was_counted_can_be_rebuilt_from_the_ledger(rows, clock):
    """C6: the counters are a cache: emptied, and counted anew, they are what they were."""
    limits = [rows.limit("requests", 50), rows.limit("tokens", 5_000), rows.limit("concurrency", 50, None)]
    calls = [call(tokens=n, output=n) for n in range(1, 20)]
    for one in calls:
        clock.advance(1.7)
        rows.admit(one)
    rows.settle(*calls[:9], input=3, output=1)
    counted = rows.ask("SELECT * FROM llm.window_counts WHERE amount <> 0 ORDER BY 1, 2, 3")

    rows.ask("DELETE FROM llm.window_counts")
    rows.ask("SELECT llm.recount_limit(l) FROM llm.limits AS l")

    assert rows.ask("SELECT * FROM llm.window_counts WHERE amount <> 0 ORDER BY 1, 2, 3") == counted
    assert len(limits) == 3


def test_a_learned_limit_holds_as_long_as_it_was_learned_for(rows, clock):
    """It ends by itself; an operator's stays beside it, and the stricter one decides."""
    rows.limit("requests", 5, provider="p")
    rows.limit("requests", 2, provider="p", set_by="learned", until=clock.now() + timedelta(seconds=30))

    assert [verdict is None for verdict in rows.admit(*(call() for _ in range(4)))] == [True, True, False, False]
    clock.advance(31)
    assert [verdict is None for verdict in rows.admit(*(call() for _ in range(4)))] == [True, True, True, False]


def test_a_clock_that_was_wrong_for_a_while_blocks_nobody(rows, clock):
    """A server that was set a year ahead and back: what was called meanwhile is not in the way for a year."""
    rows.limit("requests", 2, 60)
    rows.admit(call())
    clock.advance(365 * 86_400)
    rows.admit(call(), call())

    clock.advance(-365 * 86_400)

    assert [verdict is None for verdict in rows.admit(call(), call())] == [True, False]


def test_a_clock_that_goes_back_a_little_forgets_nothing(rows, clock):
    """What was called a moment later than now is called."""
    rows.limit("requests", 2, 60)
    rows.admit(call(), call())

    clock.advance(-5)

    assert rows.admit(call())[0] is not None


def test_what_is_used_of_each_limit_is_shown(rows, clock):
    """Now, by owner where each owner has one."""
    alice = uuid.uuid4()
    rows.limit("requests", 5)
    rows.limit("tokens", 100, per_owner=True)
    rows.limit("concurrency", 5, None, provider="other")
    rows.admit(call(owner=alice, tokens=20), call(tokens=30))
    shown = "SELECT measure, subject, used FROM llm.limits_in_use ORDER BY 1, 3"

    assert [tuple(row.values()) for row in rows.ask(shown)] == [
        ("concurrency", "", 0), ("requests", "", 2), ("tokens", str(alice), 20), ("tokens", "nobody", 30),
    ]  # fmt: skip
    clock.advance(62)
    assert [row["used"] for row in rows.ask(shown)] == [0, 0, 0]
