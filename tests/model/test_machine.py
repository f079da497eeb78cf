"""The store's real statements against the model. What this run tries is the same every time.

To search further, with other examples each time or those of one seed:
``MODEL_EXAMPLES=1000 pytest tests/model/test_machine.py [--hypothesis-seed=N]``.
"""

import os
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.machine import FIRST_STAGES, NOW, OUTCOMES, STAGES, WIDE, WORKERS, StoreMachine
from tests.model.store import Store
from tests.model.twin import Twin
from tests.proving.schema import MODELS

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
def store(database_url) -> Iterator[Store]:
    """The statements on the test's own database."""
    with Store(database_url, WORKERS) as store:
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
    assert {"complete", "cancel", "claim refused", "settle refused"} <= {deed for deed, count in tally.items() if count}


def test_every_verb_and_every_transition_is_compared_at_least_once(store, registry):
    """The machine tries them in any order; here each is done on purpose, so that none is left to chance."""
    tally: Counter[str] = Counter()
    twin = Twin(store, registry, tally)
    job = {"key": "a", "priority": 5, "due_at": None, "idempotency_key": None}

    for stage in FIRST_STAGES:
        twin.enqueue(stage, [job] * 24 + [{**job, "idempotency_key": "once"}] * 2, attempts=1, now=NOW)
    for stage in STAGES * 12:
        _go_round(twin, stage)

    twin.audit()
    for model in MODELS:
        transitions = {f"{old} -> {new}" for old, new in model.__lifecycle__.transitions}
        assert transitions <= {deed for deed, count in tally.items() if count}
    assert not [deed for deed, count in tally.items() if not count]


def _go_round(twin: Twin, stage: str) -> None:
    """Send what may be sent, and let each thing that can happen to a job happen to some of it."""
    model = twin.registry[stage].model
    for worker in WORKERS:
        twin.hear(worker)
    twin.pause(stage)
    twin.dispatch(stage, WIDE)
    twin.resume(stage)
    if not twin.dispatch(stage, WIDE):
        return
    twin.unmark(stage, older_than=NOW - NOW)
    sent = twin.dispatch(stage, WIDE)
    tickets = [ticket for _, ticket in twin.sent[-sent:]]
    twin.hand_back(stage, tickets[:1])
    twin.claim(stage, [*tickets, *tickets[:2]], WORKERS[0])
    runs = twin.runs[-(sent - 1) :] if sent > 1 else []
    twin.check()
    if runs:
        twin.write_progress(runs[0], 50)
        twin.look_after(runs)
        twin.cancel(model, [runs[0].job.id, runs[0].job.id])
        twin.settle(runs[:-2] or runs, OUTCOMES * 2)
        twin.settle(runs[:1], OUTCOMES)
        twin.write_progress(runs[0], 50)
        twin.look_after(runs)
    twin.silence(WORKERS[0])
    twin.rescue(stage, patient=True)
    twin.rescue(stage, patient=False)
    twin.check()
    twin.retry(model, [entry.id for entry in twin.ledger.of(model)])
    twin.pass_time(model)
    twin.wake(model)
    twin.check()
