"""Decisions and expiries race in four processes while workers are killed. Each wait ends once."""

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from uuid import UUID

import pytest

from tests.e2e.system import Role, System, Transition
from tests.support.proving.models import WaitingJob

pytestmark = [pytest.mark.e2e, pytest.mark.faults]

CYCLE = WaitingJob.__lifecycle__
JOBS = 500
PEOPLE = ("anna", "boris", "chloe", "dmitri")
ENDED = "SELECT count(*) FROM proving.waiting_jobs WHERE completed_at IS NOT NULL"


DECIDED = "SELECT count(*) FROM runtime.transitions WHERE change_action = 'decide'"


def await_ended(system: System, count: int) -> None:
    """Return once ``count`` jobs have ended."""
    system.wait(lambda: system.ask(ENDED)[0][0] >= count, f"{count} have ended", seconds=60.0)


@pytest.fixture
def people(system: System) -> Iterator[list[Role]]:
    """Four processes that decide and expire, each under its own name."""
    roles = [system.start("decider", name=name) for name in PEOPLE]
    yield roles
    system.stop(roles)


def decided_by(people: Sequence[Role]) -> list[tuple[UUID, int, str]]:
    """Return every decision that a process reported as won: job, version and state."""
    lines = [line for role in people for line in role.lines() if line.startswith('{"won"')]
    won = [json.loads(line)["won"] for line in lines]
    return [(UUID(one["job"]), one["version"], one["into"]) for one in won]


def check_waits(steps: Sequence[Transition]) -> None:
    """Fail unless each wait of one job ended once, as its lifecycle says, with the right actor."""
    assert [step.version_to for step in steps] == list(range(1, len(steps) + 1)), steps
    for before, step in pairwise(steps):
        assert before.new_state == step.old_state, steps
        wait = CYCLE.wait(step.old_state or "")
        if wait is None:
            continue
        match step.change_action:
            case "decide":
                assert step.new_state in wait.decides, steps
                assert step.changed_by in PEOPLE, steps
                assert step.change_reason == f"as {step.changed_by} likes it"
            case "expire":
                assert step.new_state == wait.expires, steps
                assert step.changed_by in {f"beat:{name}" for name in PEOPLE}, steps
            case _:
                pytest.fail(f"{step.change_action} ended a wait: {steps}")
    assert steps[-1].new_state in CYCLE.terminal
    assert sum(step.new_state in CYCLE.terminal for step in steps) == 1


def test_each_wait_ends_once_despite_races_and_killed_workers(system: System, people: list[Role]) -> None:
    """500 jobs are decided or expired, never both. Transitions name their actor. Won decisions are in the history."""
    system.staff(workers=2)
    jobs = system.enqueue("proving.ask", [{"act": "wait_briefly", "seconds": 0.05 + n % 20 / 20} for n in range(JOBS)])
    for count in (JOBS // 5, JOBS // 2):
        await_ended(system, count)
        system.living("worker")[0].kill()
        system.start("worker")
    await_ended(system, JOBS)

    system.wait(lambda: len(decided_by(people)) == system.ask(DECIDED)[0][0], "all decisions are reported")
    histories = system.histories(jobs)
    assert histories.keys() == set(jobs)
    for steps in histories.values():
        check_waits(steps)
    made = [
        (job, step.version_to, step.new_state)
        for job, steps in histories.items()
        for step in steps
        if step.change_action == "decide"
    ]
    expired = sum(step.change_action == "expire" for steps in histories.values() for step in steps)
    assert sorted(decided_by(people)) == sorted(made)
    assert len(made) > JOBS / 10
    assert expired > JOBS / 50
