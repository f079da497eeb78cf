"""A composite assessment has more questions than its provider answers in a minute: each of them is paid once."""

from pathlib import Path

import pytest

from tests.e2e.system import System
from tests.quota import proof
from tests.quota.proof import QUESTIONS
from tests.quota.server import quota_server

pytestmark = pytest.mark.e2e

SECONDS = 240.0


@pytest.fixture(scope="module")
def staffed(system: System) -> System:
    """The system with its workers."""
    proof.start_staff(system)
    return system


@pytest.mark.parametrize("limits", [("--requests-per-minute", "40"), ()], ids=["known limit", "unknown limit"])
def test_each_question_of_a_composite_is_paid_once(staffed: System, tmp_path: Path, limits: tuple[str, ...]) -> None:
    """60 questions at 40 requests/min: also if only the server's refusals tell its limit, every answer is kept."""
    route = f"composite{len(limits)}"
    with quota_server(tmp_path, requests_per_minute=40) as server:
        proof.offer(staffed, route, server.url, *limits)
        outcome = proof.assess(staffed, server, route=route, seconds=SECONDS)

    assert (outcome.completed, outcome.attempts) == (1, 0)
    assert (outcome.use.answered, outcome.use.paid_twice, outcome.ledger) == (QUESTIONS, 0, QUESTIONS)
    if limits:
        assert outcome.use.refused == 0
