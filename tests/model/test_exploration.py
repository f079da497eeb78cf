"""Visit every state that one job can reach; none breaks a law. If a defence is removed, a law is broken.

A wider exploration than the default takes minutes: ``MODEL_BOUNDS=2,3,1 pytest tests/model/test_exploration.py``
(maximum of messages, runs, and claims without an answer).
"""

import os

import pytest

from tests.model.explore import Exploration, explore
from tests.model.laws import Law
from tests.model.stand_ins import canonical
from tests.model.statements import Defences
from tests.model.world import Around, Bounds, JobWorld
from tests.support.proving.models import PlainJob, ProvingJob, TwoStepJob, WaitingJob


def bounds(default: str) -> Bounds:
    return Bounds(*map(int, os.environ.get("MODEL_BOUNDS", default).split(",")))


BOUNDS = bounds("2,2,1")
# The minimum that the default bounds visit. An exploration that became smaller by accident must fail.
WORLDS = {PlainJob: 3_000, TwoStepJob: 3_400, WaitingJob: 6_000}
MOVES = {PlainJob: 40_000, TwoStepJob: 36_000, WaitingJob: 70_000}


@pytest.fixture(scope="module")
def plain() -> Exploration:
    """Everything that can happen to a job of one step."""
    return explore(Around(PlainJob, max_retries=1, bounds=BOUNDS))


@pytest.fixture(scope="module")
def two_step() -> Exploration:
    """Everything that can happen to a job of two steps."""
    return explore(Around(TwoStepJob, max_retries=1, bounds=bounds("1,2,1")))


@pytest.fixture(scope="module")
def waiting() -> Exploration:
    """Everything that can happen to a job that waits between its steps, and to a person who decides."""
    return explore(Around(WaitingJob, max_retries=1, bounds=bounds("1,2,1")))


@pytest.fixture
def found(request: pytest.FixtureRequest, model: type[ProvingJob]) -> Exploration:
    """What the exploration of ``model`` found."""
    name: str = {PlainJob: "plain", TwoStepJob: "two_step", WaitingJob: "waiting"}[model]
    explored: Exploration = request.getfixturevalue(name)
    return explored


every_model = pytest.mark.parametrize("model", [PlainJob, TwoStepJob, WaitingJob])


@every_model
def test_no_world_that_can_be_reached_breaks_a_law(model, found):
    """The laws hold for every order of losses, repeats, crashes, rescues, decisions, cancels and retries."""
    assert found.broken == {}
    assert len(found.worlds) >= WORLDS[model]
    assert found.moves >= MOVES[model]


@every_model
def test_exactly_the_declared_transitions_happen(model, found):
    """The exploration makes every transition of the lifecycle and no other."""
    assert found.transitions == model.__lifecycle__.transitions


def test_every_kind_of_trouble_was_met(plain):
    """Every kind of move in the list really happens."""
    for deed in (
        "leader marks and dies",
        "leader dispatches, gets no answer and takes back",
        "leader unmarks",
        "message lost",
        "message doubled",
        "full worker hands the message back",
        "worker 1 claims without an answer",
        "worker 1 asks again and has it",
        "worker 1 crashes",
        "run of worker 1 is lost",
        "run of worker 1 settles: snooze",
        "run of worker 1 settles: release",
        "run of worker 1 settles: retry",
        "run of worker 1 settles: complete, without an answer",
        "run of worker 1 (stale) settles in vain",
        "run of worker 1 (stale) writes progress in vain and stops",
        "run of worker 1 (stale) is told to stop",
        "rescue",
        "rescue from a living worker",
        "its time comes",
        "cancel",
        "operator retries",
    ):
        assert deed in plain.deeds


def test_every_way_out_of_a_wait_was_met(waiting):
    """A wait is decided, decided without effect, and expires."""
    for deed in (
        "a person looks",
        "a person decides: approved",
        "a person decides: rejected",
        "a person decides in vain",
        "its deadline passes",
        "beat ends the wait",
    ):
        assert deed in waiting.deeds


@pytest.mark.parametrize(
    ("removed", "law"), [("version_at_decision", Law.FENCED), ("deadline_at_decision", Law.IN_TIME)]
)
def test_a_defence_of_decisions_removed_breaks_its_law(removed, law):
    """Without it, an old page decides a later wait, or a decision counts after its deadline."""
    around = Around(WaitingJob, max_retries=1, bounds=Bounds(1, 1, 1), defences=Defences(**{removed: False}))

    assert explore(around, until=law).broken[law]


@pytest.mark.parametrize(
    ("removed", "law"),
    [
        ("fence_at_settle", Law.FENCED),
        ("fence_at_settle running_at_settle", Law.FINAL),
        ("fence_at_settle running_at_settle", Law.LEGAL),
        ("fence_at_progress", Law.FENCED),
        ("version_at_claim", Law.TICKETED),
        ("ticket_at_claim", Law.TICKETED),
        ("ticket_at_claim", Law.COUNTED),
        ("rescue_raises_version", Law.GAPLESS),
        ("tickets_expire", Law.ENDS),
        ("stopping_run_calls_nobody", Law.QUIET),
        ("launch_ends_older_run", Law.REACHABLE),
        ("launch_looks_for_twin", Law.ALONE),
        ("launch_looks_for_twin", Law.KEPT),
    ],
)
def test_a_defence_removed_breaks_its_law(removed, law):
    """The exploration finds the shortest way to the damage that each defence prevents."""
    defences = Defences(**dict.fromkeys(removed.split(), False))
    around = Around(PlainJob, max_retries=1, bounds=Bounds(1, 2, 1), defences=defences)

    broken = explore(around, until=law).broken

    assert broken[law], f"{law} holds without {removed}"


def test_a_late_message_needs_its_ticket_taken_back_to_do_harm():
    """If a claim does not check the ticket, a late message claims a job that no limit counts."""
    without_ticket = Around(PlainJob, max_retries=0, bounds=BOUNDS, defences=Defences(ticket_at_claim=False))

    way = explore(without_ticket, until=Law.COUNTED).broken[Law.COUNTED]

    assert way == ["pending: leader dispatches, gets no answer and takes back", "pending: worker 0 claims"]


def test_a_settle_that_ignores_its_fence_ends_somebody_elses_run():
    """An earlier run completes the job while a later run works on it."""
    unfenced = Around(PlainJob, max_retries=1, bounds=BOUNDS, defences=Defences(fence_at_settle=False))

    way = explore(unfenced, until=Law.FENCED).broken[Law.FENCED]

    assert way[-1].endswith("(stale) settles: complete")
    assert sum("claims" in move for move in way) == 2


def test_worlds_that_stand_for_others_stand_for_all_of_them():
    """The exploration reaches the same worlds with absolute versions and with two different workers."""
    depth, around = 5, Around(PlainJob, max_retries=1, bounds=Bounds(9, 9, 9))
    literal, stand_ins = {around.first}, {canonical(around.first)}
    every_literal, every_stand_in = set(literal), set(stand_ins)
    for _ in range(depth):
        literal = _next(around, literal) - every_literal
        stand_ins = {canonical(world) for world in _next(around, stand_ins)} - every_stand_in
        every_literal |= literal
        every_stand_in |= stand_ins

    assert {canonical(world) for world in every_literal} == every_stand_in
    assert len(every_literal) > 2 * len(every_stand_in)


def _next(around: Around, worlds: set[JobWorld]) -> set[JobWorld]:
    return {move.after for world in worlds for move in around.moves(world)}
