"""Four workers keep to a quota of tokens of a real quota server (llmock), by the server's own count."""

from pathlib import Path

import pytest

from tests.e2e.system import System
from tests.quota import proof
from tests.quota.server import quota_server

pytestmark = pytest.mark.e2e

# A question of these jobs is charged with about 2,200 tokens: a minute has room for three quarters of 600.
TOKENS_PER_MINUTE = 1_000_000
SECONDS = 240.0
MAX_REFUSED, MIN_USED = 0.01, 0.95


def test_six_hundred_jobs_use_a_quota_of_tokens(system: System, tmp_path: Path) -> None:
    """A server that charges what is requested is told so: then its tokens are used up and never passed."""
    proof.start_staff(system)
    with quota_server(tmp_path) as free, quota_server(tmp_path, tokens_per_minute=TOKENS_PER_MINUTE) as server:
        proof.offer(system, "free", free.url)
        proof.offer(system, "tokens", server.url, "--requested-tokens-per-minute", str(TOKENS_PER_MINUTE))
        outcome = proof.run(system, server, route="tokens", jobs=600, beside="free", seconds=SECONDS)

    assert (outcome.completed, outcome.attempts) == (outcome.jobs, 0)
    assert (outcome.use.paid_twice, outcome.ledger) == (0, outcome.use.answered)
    assert outcome.use.refused_share <= MAX_REFUSED
    assert (outcome.use.used_share or 0.0) >= MIN_USED
    assert outcome.left > 0
