"""Processes that decide or expire die at a named step. Committed work stays; another process does the rest."""

import json
from collections.abc import Sequence
from itertools import pairwise
from uuid import UUID

import pytest

from tests.e2e.crashes import WAIT_ENDS, Crash, arm
from tests.e2e.system import System
from tests.support.proving.models import WaitingJob
from workers.runtime.failpoints import Point

pytestmark = [pytest.mark.e2e, pytest.mark.faults]

JOBS = 12
WAITING = "SELECT count(*) FROM proving.waiting_jobs WHERE id = ANY (%s) AND status = 'awaiting_approval'"
MADE = "SELECT count(*) FROM runtime.transitions WHERE job_id = ANY (%s) AND change_action = %s AND changed_by = %s"
ENDED = "SELECT count(*) FROM proving.waiting_jobs WHERE id = ANY (%s) AND completed_at IS NOT NULL"


def await_waits(system: System, *, seconds: float) -> list[UUID]:
    """Return jobs that wait for an approval, each for ``seconds``."""
    system.staff(workers=1)
    jobs = system.enqueue("proving.ask", [{"act": "wait_briefly", "seconds": seconds}] * JOBS)
    system.wait(lambda: system.ask(WAITING, jobs) == [(JOBS,)], "all wait")
    return jobs


def check_waits_end_once(system: System, jobs: Sequence[UUID]) -> None:
    """Fail unless a living process ends the remaining waits, and each wait ended once."""
    heir = system.start("decider", name="heir", share=1.0)
    try:
        system.wait(lambda: system.ask(ENDED, jobs) == [(JOBS,)], "all have ended")
    finally:
        system.stop([heir])
    waits = WaitingJob.__lifecycle__.waiting
    for steps in system.histories(jobs).values():
        assert [step.version_to for step in steps] == list(range(1, len(steps) + 1))
        assert all(before.new_state == after.old_state for before, after in pairwise(steps))
        left = [step.change_action for step in steps if step.old_state in waits]
        assert set(left) <= {"decide", "expire"}


@pytest.mark.parametrize("point", WAIT_ENDS[:2])
def test_a_decision_whose_process_dies_before_its_commit_was_never_made(system: System, point: Point) -> None:
    """The process dies at its third decision. Two are in the histories, and the third job still waits."""
    jobs = await_waits(system, seconds=300.0)

    dead = arm(system, "decider", point, nth=3, name=point, share=1.0)
    dead.exit_code(within=30.0)

    Crash(point, dead).assert_there()
    won = [json.loads(line)["won"]["job"] for line in dead.lines() if line.startswith('{"won"')]
    assert system.ask(MADE, jobs, "decide", point) == [(2,)]
    assert {UUID(job) for job in won} < set(jobs)
    assert len(won) == 2
    check_waits_end_once(system, jobs)


@pytest.mark.parametrize(("point", "expired"), [(WAIT_ENDS[2], 0), (WAIT_ENDS[3], JOBS)])
def test_a_beat_that_dies_as_it_ends_waits_leaves_the_rest_to_another(
    system: System, point: Point, expired: int
) -> None:
    """A batch is committed completely or not at all. No wait expires twice."""
    jobs = await_waits(system, seconds=4.0)
    system.wait(
        lambda: system.ask(f"{WAITING} AND wait_until > now()", jobs) == [(0,)], "the deadline passes, beat is away"
    )

    dead = arm(system, "decider", point, name=point, share=0.0)
    dead.exit_code(within=30.0)

    Crash(point, dead).assert_there()
    assert system.ask(MADE, jobs, "expire", f"beat:{point}") == [(expired,)]
    check_waits_end_once(system, jobs)
