"""A provider that cannot be asked, in every way it can be: nothing fails, jobs say why they wait, and go on.

Each phase lasts seconds here; ``make quota ARGS='--outage 10'`` has them last ten minutes each.
"""

from collections.abc import Iterator

import pytest

from tests.e2e.system import System
from tests.quota import outage, proof
from tests.quota.outage import PHASES, Phase, Provider
from workers.operations.keyring import new_key

pytestmark = pytest.mark.e2e

SECONDS = 120.0


@pytest.fixture(scope="module")
def main_provider() -> Iterator[Provider]:
    with outage.provider("main") as one:
        yield one


@pytest.fixture(scope="module")
def staffed(system: System, main_provider: Provider) -> System:
    """Four workers, and a provider that answers."""
    system.environment["GRISTMILL_SECRET_KEYS"] = new_key()
    proof.start_staff(system, **outage.SETTINGS)
    proof.offer(system, main_provider.name, main_provider.url)
    system.await_all(proof.enqueue(system, main_provider.name, 8), seconds=SECONDS)
    return system


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.name)
def test_jobs_outlast_a_provider_that_cannot_be_asked(staffed: System, main_provider: Provider, phase: Phase) -> None:
    """Every job says why it waits, none ends meanwhile, all complete afterwards, and no attempt is spent."""
    became = outage.go_through(staffed, main_provider, phase, lasts=3.0, seconds=SECONDS)

    assert (became.silent, became.ended_meanwhile) == (0, 0)
    assert (became.completed, became.attempts) == (became.jobs, 0)


def test_a_fallback_route_answers_meanwhile_and_says_so(staffed: System, main_provider: Provider) -> None:
    """Jobs finish by the second step; job and ledger say which step answered, and why the first did not."""
    with outage.provider("spare") as spare:
        staffed.gristmill("llm", "providers", "add", "spare", "--kind", "compatible", "--base-url", spare.url)
        steps = ("--step", f"main/{proof.MODEL}", "--step", f"spare/{proof.MODEL}")
        staffed.gristmill("llm", "routes", "add", "pair", *steps)
        main_provider.behave({"kind": "status", "status": 503})
        jobs = proof.enqueue(staffed, "pair", 20)
        staffed.await_all(jobs, seconds=SECONDS)
        main_provider.behave(outage.ANSWER)

    paths = staffed.ask(
        "SELECT llm_response -> 'call' -> 'path', retry_count FROM scoring.scoring_jobs WHERE id = ANY (%s)", jobs
    )
    answered = staffed.ask(
        "SELECT job_id, route, step, provider FROM llm.calls WHERE job_id = ANY (%s) AND state = 'unpriced'", jobs
    )
    refused = staffed.ask(
        "SELECT DISTINCT step, provider, state, failure FROM llm.calls WHERE job_id = ANY (%s) AND state <> 'unpriced'",
        jobs,
    )
    assert {retries for _, retries in paths} == {0}
    assert {(path[0]["provider"], path[1]["provider"], len(path)) for path, _ in paths} == {("main", "spare", 2)}
    assert all("HTTP 503" in path[0]["why_not"] for path, _ in paths)
    assert sorted(answered) == sorted((job, "pair", 1, "spare") for job in jobs)
    assert [(step, name, state) for step, name, state, _ in refused] == [(0, "main", "failed")]
    assert "HTTP 503" in refused[0][3]
