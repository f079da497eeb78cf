"""What the leader makes of the answers of gates."""

import time

import pytest

from workers.runtime.dispatch.crowds import beside, crowd_in_flight, is_slow
from workers.runtime.dispatch.gates import ANSWER_HOLDS_SECONDS, UNKNOWN, Gate, GateKeeper
from workers.runtime.shares import NOBODY
from workers.runtime.store.gates import UNLIMITED, Allowance, Flight
from workers.runtime.store.processes import StageCapacity


@pytest.fixture
def keeper():
    """A keeper of one stage, with an answer of now."""
    keeper = GateKeeper(["s"])
    answer(keeper)
    return keeper


def answer(keeper: GateKeeper, *gates: Gate, flight=(), ago: float = 0.0):
    return keeper.answer(gates, {"s": flight}, asked_at=time.monotonic() - ago)


def test_before_the_first_answer_nothing_goes_out():
    """A new leader knows no limit yet."""
    keeper = GateKeeper(["s"])

    assert keeper.allowance("s") == Allowance(others=0)
    assert keeper.told() == []  # nobody is alarmed by the first moments


def test_a_stage_without_gates_goes_out_freely(keeper):
    """The plain statement picks it."""
    assert keeper.allowance("s") is None


def test_an_old_answer_closes_the_stage_and_says_so(keeper):
    """Nothing is called beyond a limit that nobody can read."""
    answer(keeper, Gate("s", "k", 5), ago=ANSWER_HOLDS_SECONDS + 1)

    keeper._began_at -= ANSWER_HOLDS_SECONDS
    assert keeper.allowance("s") == Allowance(others=0)
    assert [(row.stage, row.free, row.reason) for row in keeper.told()] == [("s", 0, UNKNOWN)]


def test_what_goes_out_is_counted_down_until_the_next_look(keeper):
    """By the gate of each job; those without a gate of their own share one."""
    answer(keeper, Gate("s", "k", 3), Gate("s", None, 2))

    keeper.took("s", ["k", "k", "x"])

    assert keeper.allowance("s") == Allowance({"k": 1}, others=1)
    keeper.took("s", ["k", "k", "y", "z"])
    assert keeper.allowance("s") == Allowance({"k": 0}, others=0)
    answer(keeper, Gate("s", "k", 3))
    assert keeper.allowance("s") == Allowance({"k": 3}, others=UNLIMITED)


def test_jobs_that_nobody_has_claimed_yet_use_what_is_free(keeper):
    """The limit does not know of them; those that run it knows."""
    answer(keeper, Gate("s", "k", 3), flight=[Flight("", "k", 2, 40), Flight("o", "x", 7, 0)])

    assert keeper.allowance("s") == Allowance({"k": 1}, others=UNLIMITED)


def test_a_gate_that_opens_says_who_was_kept_back(keeper):
    """Also one that is not reported any more; one that stays shut, or was open, says nothing."""
    shut = [Gate("s", key, 0, causes=[f"limit {key}"]) for key in ("a", "b", "c")]
    assert answer(keeper, *shut, Gate("s", "d", 1, causes=["limit d"])) == []

    opened = answer(keeper, shut[0], Gate("s", "b", 1))

    assert [one.causes for one in opened] == [{"limit b"}, {"limit c"}]


def test_a_key_is_not_open_while_the_whole_stage_is_shut(keeper):
    """Its own gate is gone, that of all others holds it."""
    answer(keeper, Gate("s", "a", 0, causes=["limit a"]))

    assert answer(keeper, Gate("s", None, 0)) == []


CAPACITY = StageCapacity(paused=False, slots=8, workers=2)


def test_shares_are_looked_at_where_slots_come_free_slowly():
    """Whoever waits behind jobs of a fifth of a second gets a slot soon."""
    assert is_slow(CAPACITY, per_second=1.0)
    assert not is_slow(CAPACITY, per_second=100.0)
    assert not is_slow(StageCapacity(paused=False, slots=0, workers=0), per_second=0.0)


def test_nobody_holds_too_much_while_slots_are_free():
    """Tickets that nobody has claimed hold no slot."""
    assert crowd_in_flight([Flight("o", "k", 9, 7)], CAPACITY) == NOBODY
    assert crowd_in_flight([Flight("o", "k", 0, 8)], CAPACITY).has("o", "k")
    assert not crowd_in_flight([Flight("o", "k", 0, 8)], CAPACITY).has("o", "x")
    assert beside(CAPACITY) == 2
