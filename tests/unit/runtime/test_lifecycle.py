"""The states and transitions that follow from the steps of a lifecycle."""

from datetime import timedelta

import pytest

from models.lifecycle import Lifecycle, Step

ONE = Lifecycle(steps=(Step("a.work", "pending", "processing", "completed"),), retention=timedelta(days=1))
TWO = Lifecycle(
    steps=(Step("a.first", "pending", "processing", "halfway"), Step("a.second", "halfway", "finishing", "completed")),
    retention=timedelta(days=1),
    also=frozenset({("pending", "expired")}),
)


def test_one_step_allows_exactly_the_life_of_a_job():
    """Claim, complete, back to ready, fail, cancel from ready and running, retry by an operator; nothing else."""
    assert ONE.transitions == {
        ("pending", "processing"),
        ("pending", "cancelled"),
        ("processing", "completed"),
        ("processing", "pending"),
        ("processing", "failed"),
        ("processing", "cancelled"),
        ("failed", "pending"),
    }


def test_terminal_states_lead_nowhere_but_failed():
    """A completed or cancelled job stays in its state."""
    assert {old for old, _ in TWO.transitions} & TWO.terminal == {"failed"}


def test_no_step_is_skipped():
    """A job reaches the second step only through the first."""
    assert ("pending", "finishing") not in TWO.transitions
    assert ("processing", "finishing") not in TWO.transitions
    assert ("pending", "completed") not in TWO.transitions


def test_states_of_two_steps():
    """Every state is ready, running, terminal or named by the domain."""
    assert TWO.initial == "pending"
    assert TWO.completed == "completed"
    assert TWO.ready == {"pending", "halfway"}
    assert TWO.running == {"processing", "finishing"}
    assert TWO.states == TWO.ready | TWO.running | TWO.terminal | {"expired"}


def test_a_step_is_found_by_its_stage_and_a_wrong_name_lists_the_right_ones():
    """A handler of a misspelt stage fails at import; the message has the remedy."""
    assert TWO.step("a.second").ready == "halfway"

    with pytest.raises(LookupError, match=r"stage 'a.third' is no step .*; its stages: a.first, a.second"):
        TWO.step("a.third")
