"""Lifecycles with waits and ends of a domain: what follows from them, and which declarations are refused."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from models.lifecycle import End, Lifecycle, Step, Wait
from tests.support.proving.models import SECOND_OPINION, WaitingJob
from workers.runtime.handler.outcomes import Complete
from workers.runtime.handler.registry import Registry
from workers.runtime.worker.settled_row import settled_row

CYCLE = WaitingJob.__lifecycle__
ASK, ACT = CYCLE.steps


def declared(**changes: object) -> Lifecycle:
    """Return a valid lifecycle of one step and one wait, with ``changes``."""
    sound: dict[str, object] = {
        "steps": (Step("some.ask", "pending", "asking", "asked"),),
        "waits": (Wait(state="asked", waits_for="an answer", decides=("answered",), expires="failed"),),
        "ends": (End("answered", "good"),),
        "retention": timedelta(days=1),
    }
    return Lifecycle(**{**sound, **changes})  # type: ignore[arg-type]


def waiting(state: str = "asked", **changes: object) -> Wait:
    sound = {"waits_for": "an answer", "decides": ("answered",), "expires": "failed"}
    return Wait(state=state, **{**sound, **changes})  # type: ignore[arg-type]


def test_a_wait_leads_where_its_decisions_its_deadline_and_a_cancel_lead():
    """No other transition leaves it."""
    left = {new for old, new in CYCLE.transitions if old == "awaiting_approval"}

    assert left == {"approved", "rejected", "waived", SECOND_OPINION, "lapsed", "cancelled"}


def test_every_end_is_terminal_and_counts_as_it_says():
    """This includes the three ends of every lifecycle."""
    assert CYCLE.good == {"completed", "waived"}
    assert CYCLE.bad == {"failed", "lapsed"}
    assert CYCLE.neutral == {"cancelled", "rejected"}
    assert CYCLE.terminal == CYCLE.good | CYCLE.bad | CYCLE.neutral


def test_a_wait_belongs_to_the_step_from_which_it_is_entered():
    """This includes a wait that only another wait leads to."""
    assert [CYCLE.step_of(state) for state in ("awaiting_approval", SECOND_OPINION, "awaiting_agent")] == [
        ASK,
        ASK,
        ACT,
    ]
    assert CYCLE.step_of("lapsed") is None


def test_where_the_last_step_leads_to_a_wait_the_first_good_end_is_completed():
    """A delivery that somebody must accept is completed when it is accepted."""
    assert declared().completed == "answered"


def test_several_states_may_have_one_public_name():
    """A state without a public name is shown as it is."""
    assert {CYCLE.public_name("awaiting_approval"), CYCLE.public_name(SECOND_OPINION)} == {"in review"}
    assert CYCLE.public_name("approved") == "approved"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"waits": (waiting(decides=()),)}, "names no state that a decision leads to"),
        ({"waits": (waiting(decides=("asking",)),)}, "leads to 'asking', which is no ready state, end or wait"),
        ({"waits": (waiting(expires="nowhere"),)}, "leads to 'nowhere'"),
        ({"waits": (waiting("pending"),)}, "'pending' cannot be two kinds of state at once"),
        ({"waits": (waiting(), waiting())}, "declares one wait twice"),
        ({"waits": (waiting(), waiting("lost"))}, "no step leads to the wait 'lost'"),
        ({"waits": (waiting(expires="asked"),)}, "'asked' follows an expiry and so must say how long it lasts"),
        ({"ends": (), "waits": (waiting(decides=("pending",)),)}, "declare the good End"),
        ({"shown_as": {"asced": "in review"}}, "shows 'asced', which is none of its states"),
        ({"ends": (End("answered", "good"), End("x" * 41, "bad"))}, "a state has at most 40 characters"),
    ],
)
def test_a_lifecycle_in_which_a_job_could_be_lost_is_refused(changes, told):
    """It fails at import, with the name of the stage."""
    with pytest.raises(ValueError, match=r"lifecycle of 'some.ask': ") as refused:
        declared(**changes)

    assert told in str(refused.value)


def test_waits_of_one_lifecycle_share_the_column_of_their_deadline():
    """A job is in one wait at a time."""
    other = waiting("asked_again", deadline="answer_by", decides=("answered",))

    with pytest.raises(ValueError, match="in the same attribute"):
        declared(waits=(waiting(decides=("answered", "asked_again")), other))


@pytest.mark.parametrize(
    ("stage", "outcome", "told"),
    [
        ("proving.ask", Complete(), None),
        ("proving.ask", Complete(until=timedelta(days=2)), None),
        ("proving.ask", Complete(into="waived"), None),
        ("proving.act", Complete(into="awaiting_agent", until=datetime(2030, 1, 1, tzinfo=UTC)), None),
        ("proving.ask", Complete(into="approved"), "chose 'approved', to which its step does not lead"),
        ("proving.act", Complete(into="waived"), "chose 'waived'"),
        ("proving.act", Complete(until=timedelta(days=2)), "gave a deadline, but 'completed' is no wait"),
        ("proving.ask", Complete(until=datetime(2030, 1, 1)), "gave a deadline without a time zone"),  # noqa: DTZ001
    ],
)
def test_a_handler_chooses_among_the_states_that_its_step_may(registry: Registry, stage, outcome, told):
    """It may give a deadline only to a wait."""
    problem = registry[stage].problem_of(outcome)

    assert (told is None and problem is None) or (told is not None and problem is not None and told in problem)


@pytest.mark.parametrize(
    ("outcome", "step", "state", "until", "terminal"),
    [
        (Complete(), ASK, "awaiting_approval", timedelta(hours=1), False),
        (Complete(until=timedelta(days=2)), ASK, "awaiting_approval", timedelta(days=2), False),
        (Complete(into="waived"), ASK, "waived", None, True),
        (Complete(into="awaiting_agent"), ACT, "awaiting_agent", timedelta(minutes=10), False),
        (Complete(), ACT, "completed", None, True),
    ],
)
def test_an_outcome_says_the_state_and_the_deadline(outcome, step, state, until, terminal):
    """The deadline is the given one or the wait's own; progress is full only at an end."""
    job = WaitingJob(id=UUID(int=1), version=2, retry_count=0, max_retries=5)

    row = settled_row(job, step, CYCLE, outcome, draw=lambda: 0.5)

    assert (row.status, row.until, row.terminal, row.action) == (state, until, terminal, "complete")
    assert row.progress == (100 if terminal else 0)
