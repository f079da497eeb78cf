"""Limits per key hold at every moment, over all worker processes, by the times of the transitions."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import accumulate
from uuid import UUID

import pytest

from tests.e2e.system import System, Transition
from tests.support.fakes.openai_server import FakeOpenAI
from tests.support.proving.models import LIMIT

pytestmark = pytest.mark.e2e

PER_PROFILE = 10


def max_running(histories: Iterable[Sequence[Transition]]) -> int:
    """Return the largest number of these jobs that ran at one moment."""
    changes = [(step.created_at, 1) for steps in histories for step in steps if step.new_state == "processing"]
    changes += [(step.created_at, -1) for steps in histories for step in steps if step.old_state == "processing"]
    return max(accumulate(change for _, change in sorted(changes)))


def ended(system: System, jobs: Sequence[UUID]) -> list[datetime]:
    """Return the times at which these jobs ended, in order."""
    return sorted(steps[-1].created_at for steps in system.histories(jobs).values())


def test_busy_key_stays_at_its_limit_and_delays_nobody_else(system: System) -> None:
    """120 jobs of one key run three at once over three workers. Jobs of other keys do not wait for them."""
    system.staff(workers=3)
    busy = system.enqueue("proving.keyed", [{"key": "busy", "seconds": 0.1}] * 120)
    others = system.enqueue("proving.keyed", [{"key": f"other {n % 10}", "seconds": 0.1} for n in range(30)])

    system.await_all([*busy, *others])

    system.assert_settled_once([*busy, *others])
    assert max_running(system.histories(busy).values()) == LIMIT
    assert ended(system, others)[-1] < ended(system, busy)[len(busy) // 2]


def test_profile_never_has_more_than_ten_jobs_with_a_model(system: System) -> None:
    """100 jobs of one profile on three workers run ten at once, by our times and by the provider's count."""
    with FakeOpenAI() as fake:
        fake.script(default={"kind": "answer", "delay_ms": 200})
        settings = {"OPENAI_BASE_URL": fake.url, "OPENAI_API_KEY": "sk-fake", "GRISTMILL_WORKER__SLOTS": "50"}
        system.stop(system.staff(workers=0))  # they have no model
        with system.lasting([system.start_gristmill("worker", **settings) for _ in range(3)]):
            busy, other = (row[0] for row in system.ask(TWO_PROFILES))
            jobs, beside = (ask_about(system, profile, count) for profile, count in ((busy, 100), (other, 10)))
            system.await_all([*jobs, *beside], seconds=60.0)
        seen = fake.snapshot()

    system.assert_settled_once([*jobs, *beside])
    assert max_running(system.histories(jobs).values()) == PER_PROFILE
    assert seen["max_in_flight"] <= 2 * PER_PROFILE
    assert seen["calls"] == len(jobs) + len(beside)
    assert ended(system, beside)[-1] < ended(system, jobs)[len(jobs) // 2]


def ask_about(system: System, profile: UUID, count: int) -> list[UUID]:
    """Enqueue ``count`` jobs of one profile with different questions, so that no job can reuse an answer."""
    return system.enqueue("scoring.score", [{"profile_id": profile, "prompt": f"Question {n}"} for n in range(count)])


TWO_PROFILES = "INSERT INTO scoring.profiles (name) VALUES ('busy'), ('other') RETURNING id"
