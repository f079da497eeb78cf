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


def test_each_question_of_a_composite_is_paid_once(staffed: System, tmp_path: Path) -> None:
    """60 questions at 40 requests/min, although only the server's refusals tell its limit: every answer is kept."""
    with quota_server(tmp_path, requests_per_minute=40) as server:
        proof.offer(staffed, "composite", server.url)
        outcome = proof.assess(staffed, server, route="composite", seconds=SECONDS)

    assert (outcome.completed, outcome.attempts) == (1, 0)
    assert (outcome.use.answered, outcome.use.paid_twice, outcome.ledger) == (QUESTIONS, 0, QUESTIONS)
