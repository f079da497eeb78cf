"""Compare the real statements of the store with the model. By default the examples are the same every time.

To search with other examples each time, or with those of one seed:
``MODEL_EXAMPLES=1000 pytest tests/model/test_machine.py [--hypothesis-seed=N]``.
"""

import os
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.machine import DECISIONS, FIRST_STAGES, NOW, OUTCOMES, STAGES, WIDE, WORKERS, StoreMachine
from tests.model.statements import Defences
from tests.model.store import RealStore
from tests.model.twin import Twin
from tests.support.proving.models import SECOND_OPINION, WaitingJob
from tests.support.proving.schema import MODELS
from workers.runtime.handler.outcomes import Complete, Settlement
from workers.runtime.store.claim import Ticket

JOB = {"key": "a", "priority": 5, "due_at": None, "idempotency_key": None}
EXAMPLES = int(os.environ.get("MODEL_EXAMPLES", "0"))
SETTINGS = settings(
    max_examples=EXAMPLES or 40,
    stateful_step_count=40,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def store(database_url) -> Iterator[RealStore]:
    """The statements on the test's own database."""
    with RealStore(database_url, WORKERS) as store:
        yield store


def test_the_store_does_what_the_model_says(store, registry):
    """Several jobs, two workers, one leader and an operator: after every step, every row and its history agree."""
    tally: Counter[str] = Counter()

    class Machine(StoreMachine):
        def __init__(self) -> None:
            super().__init__(store, registry, tally)

    run_state_machine_as_test(Machine, settings=SETTINGS)

    assert tally["step"] >= 20 * SETTINGS.max_examples
    assert tally["claim"] >= SETTINGS.max_examples
    met = {deed for deed, count in tally.items() if count}
    assert {"complete", "cancel", "claim refused", "settle refused", "decide", "decide refused", "expire"} <= met


@pytest.mark.parametrize(
    "defence",
    [
        *("fence_at_settle", "fence_at_progress", "version_at_claim", "ticket_at_claim", "rescue_raises_version"),
        *("version_at_decision", "deadline_at_decision"),
    ],
)
def test_the_machine_tells_a_kernel_from_one_without_a_defence(store, registry, defence):
    """The store differs from a model without one defence. So a store without that defence would be found."""

    class Machine(StoreMachine):
        def __init__(self) -> None:
            super().__init__(store, registry, Counter(), Defences(**{defence: False}))

    with pytest.raises(AssertionError):
        run_state_machine_as_test(Machine, settings=settings(SETTINGS, phases=[Phase.generate]))


def test_every_verb_and_every_transition_is_compared_at_least_once(store, registry):
    """The machine tries operations at random; here each one is done on purpose, so that none is left out."""
    tally: Counter[str] = Counter()
    twin = Twin(store, registry, tally)
    for stage in FIRST_STAGES:
        twin.enqueue(stage, [JOB] * 40 + [{**JOB, "idempotency_key": "once"}] * 2, attempts=1, now=NOW)
    for n in range(12):
        for stage in STAGES:
            _go_round(twin, stage, OUTCOMES[n % 7 :] + OUTCOMES[: n % 7], leaves_one=n % 2 == 1)
        _wait_every_way(twin, n)

    twin.audit()
    done = {deed for deed, count in tally.items() if count}
    assert done == tally.keys()
    for model in MODELS:
        assert {f"{old} -> {new}" for old, new in model.__lifecycle__.transitions} <= done


def _wait_every_way(twin: Twin, n: int) -> None:
    """Let jobs enter each wait and leave it in each way, with pages that are new, old and too late."""
    twin.enqueue("proving.ask", [JOB] * 9, attempts=1, now=NOW)
    _begin_to_wait(twin, "proving.ask", [Complete(into="waived"), *[Complete()] * 8])
    _begin_to_wait(twin, "proving.act", [*[Complete(into="awaiting_agent")] * 4, *OUTCOMES])
    if n % 2 == 0:
        for into in DECISIONS[n // 2 % 5 :] + DECISIONS[: n // 2 % 5]:
            for state in sorted(WaitingJob.__lifecycle__.waiting):
                _decide(twin, _pages(twin, state)[-3 if into == SECOND_OPINION else -1 :], into)
        _decide(twin, _pages(twin, "awaiting_approval")[2:], "approved")
        twin.cancel(WaitingJob, [one.id for one in twin.ledger.of(WaitingJob) if one.row.status == "approved"][:1])
    else:
        _decide(twin, _pages(twin, "awaiting_approval")[:2], SECOND_OPINION)
        _decide(twin, _pages(twin, "awaiting_agent")[-1:], "approved")
        for state in sorted(WaitingJob.__lifecycle__.waiting):
            twin.cancel(WaitingJob, [job_id for job_id, _ in _pages(twin, state)[:1]])
        twin.end_waits(WaitingJob)
        _decide(twin, twin.pages[-3:], "approved")
        twin.expire(WaitingJob)
    twin.retry(WaitingJob, [entry.id for entry in twin.ledger.of(WaitingJob)])
    twin.check()


def _begin_to_wait(twin: Twin, stage: str, outcomes: list[Settlement]) -> None:
    sent = twin.dispatch(stage, WIDE)
    if sent:
        twin.claim(stage, [ticket for _, ticket in twin.sent[-sent:]], WORKERS[0])
        twin.settle([run for run in twin.runs if run.stage == stage][-sent:], (outcomes * 9)[:sent])
        twin.check()
    twin.look(WaitingJob)


def _pages(twin: Twin, state: str) -> list[Ticket]:
    """Return the pages of jobs that are in this wait."""
    return [page for page in twin.pages if twin.ledger.jobs[page[0]].row.status == state]


def _decide(twin: Twin, pages: list[Ticket], into: str) -> None:
    if pages:
        twin.decide(pages, into)
        twin.look(WaitingJob)
        twin.check()


def _go_round(twin: Twin, stage: str, outcomes: tuple[Settlement, ...], *, leaves_one: bool) -> None:
    """Dispatch jobs, and let each thing that can happen to a job happen to some of them."""
    model = twin.registry[stage].model
    for worker in WORKERS:
        twin.send_heartbeat(worker)
    twin.dispatch(stage, WIDE)
    twin.pause(stage)
    twin.dispatch(stage, WIDE)  # takes everything back
    twin.resume(stage)
    sent = twin.dispatch(stage, WIDE)
    if sent < 3:
        return
    tickets = [ticket for _, ticket in twin.sent[-sent:]]
    twin.hand_back(stage, tickets[:1])
    twin.claim(stage, [*tickets, *tickets[:2]], WORKERS[0])
    twin.check()
    runs = twin.runs[1 - sent :]
    twin.write_progress(runs[0], 50)
    twin.look_after(runs)
    twin.settle(runs[:-1] if leaves_one else runs, outcomes * 2)
    twin.settle(runs[:1], outcomes)
    twin.write_progress(runs[0], 60)
    twin.look_after(runs)
    twin.cancel(model, [tickets[0][0]] if leaves_one else [runs[-1].job.id, tickets[0][0]])
    twin.check()
    twin.silence(WORKERS[0])
    twin.rescue(stage, patient=True)
    twin.rescue(stage, patient=False)
    twin.check()
    twin.retry(model, [entry.id for entry in twin.ledger.of(model)])
    twin.pass_time(model)
    twin.wake(model)
    twin.check()
