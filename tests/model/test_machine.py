"""The store's real statements against the model. What this run tries is the same every time.

To search further, with other examples each time or those of one seed:
``MODEL_EXAMPLES=1000 pytest tests/model/test_machine.py [--hypothesis-seed=N]``.
"""

import os
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.machine import FIRST_STAGES, NOW, OUTCOMES, STAGES, WIDE, WORKERS, StoreMachine
from tests.model.statements import Defences
from tests.model.store import Store
from tests.model.twin import Twin
from tests.support.proving.schema import MODELS
from workers.runtime.handler.outcomes import Settlement

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


@pytest.mark.parametrize(
    "defence",
    ["fence_at_settle", "fence_at_progress", "version_at_claim", "ticket_at_claim", "rescue_raises_version"],
)
def test_the_machine_tells_a_kernel_from_one_without_a_defence(store, registry, defence):
    """Held against a model that lacks one defence, the store disagrees: were the store the one, it would be found."""

    class Machine(StoreMachine):
        def __init__(self) -> None:
            super().__init__(store, registry, Counter(), Defences(**{defence: False}))

    with pytest.raises(AssertionError):
        run_state_machine_as_test(Machine, settings=settings(SETTINGS, phases=[Phase.generate]))


def test_every_verb_and_every_transition_is_compared_at_least_once(store, registry):
    """The machine tries them in any order; here each is done on purpose, so that none is left to chance."""
    tally: Counter[str] = Counter()
    twin = Twin(store, registry, tally)
    job = {"key": "a", "priority": 5, "due_at": None, "idempotency_key": None}

    for stage in FIRST_STAGES:
        twin.enqueue(stage, [job] * 40 + [{**job, "idempotency_key": "once"}] * 2, attempts=1, now=NOW)
    for n in range(12):
        for stage in STAGES:
            _go_round(twin, stage, OUTCOMES[n % 7 :] + OUTCOMES[: n % 7], leaves_one=n % 2 == 1)

    twin.audit()
    done = {deed for deed, count in tally.items() if count}
    assert done == tally.keys()
    for model in MODELS:
        assert {f"{old} -> {new}" for old, new in model.__lifecycle__.transitions} <= done


def _go_round(twin: Twin, stage: str, outcomes: tuple[Settlement, ...], *, leaves_one: bool) -> None:
    """Send what may be sent, and let each thing that can happen to a job happen to some of it."""
    model = twin.registry[stage].model
    for worker in WORKERS:
        twin.hear(worker)
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
