"""Four workers keep to the quota of a real quota server (llmock), by the server's own count.

The long forms, at 30 requests a minute, are run by hand: ``make quota``.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.system import System
from tests.quota import proof
from tests.quota.proof import Outcome
from tests.quota.server import Seen, quota_server, use_of

pytestmark = pytest.mark.e2e

FREE = "free"
PER_MINUTE = 300
SECONDS = 240.0
MAX_REFUSED, MIN_USED = 0.01, 0.95


@pytest.fixture(scope="module")
def staffed(system: System, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """The system with its workers, and a provider without a quota."""
    proof.start_staff(system)
    with quota_server(tmp_path_factory.mktemp("free")) as server:
        proof.offer(system, FREE, server.url)
        yield system


def assert_kept(outcome: Outcome) -> None:
    """Fail unless every job completed by its first attempt, each question paid once, hardly one refused."""
    assert (outcome.completed, outcome.attempts) == (outcome.jobs, 0)
    assert outcome.use.paid_twice == 0
    assert outcome.ledger == outcome.use.answered
    assert outcome.use.refused_share <= MAX_REFUSED


def test_sixty_jobs_are_answered_and_none_is_refused(staffed: System, tmp_path: Path) -> None:
    """Fewer jobs than a minute has room for are all asked at once."""
    with quota_server(tmp_path, requests_per_minute=PER_MINUTE) as server:
        proof.offer(staffed, "sixty", server.url, "--requests-per-minute", str(PER_MINUTE))
        outcome = proof.run(staffed, server, route="sixty", jobs=60, beside=FREE, seconds=SECONDS)

    assert_kept(outcome)
    assert (outcome.use.answered, outcome.use.refused) == (60, 0)


def test_six_hundred_jobs_use_a_quota_of_requests_and_others_pass(staffed: System, tmp_path: Path) -> None:
    """Twice the quota of a minute: it is used up and never passed; the other route's jobs are done long before."""
    with quota_server(tmp_path, requests_per_minute=PER_MINUTE) as server:
        proof.offer(staffed, "requests", server.url, "--requests-per-minute", str(PER_MINUTE))
        outcome = proof.run(staffed, server, route="requests", jobs=600, beside=FREE, seconds=SECONDS)

    assert_kept(outcome)
    assert outcome.use.answered == 600
    assert (outcome.use.used_share or 0.0) >= MIN_USED
    assert outcome.left > 0


def test_the_count_of_a_quotas_use_finds_idle_minutes_and_repeats() -> None:
    """What judges the others can fail: a log that used half of its quota, and paid one question twice."""
    log = [Seen(at=60.0 * n, status=200, model="m", question=str(n // 2), tokens=10) for n in range(6)]
    log.append(Seen(at=1.0, status=429, model="m", question="0", tokens=10))

    of_requests, of_tokens = use_of(log, quota=2), use_of(log, quota=10, tokens=True)

    assert (of_requests.used_share, of_tokens.used_share) == (0.5, 1.0)
    assert (of_requests.answered, of_requests.refused, of_requests.paid_twice) == (6, 1, 3)
    assert use_of(log, quota=600).used_share is None
