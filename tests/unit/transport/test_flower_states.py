"""The events of a job and Celery's precedence of states: Flower shows the right state after every transition."""

import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from itertools import product
from typing import Any
from uuid import UUID

import pytest
from celery import Celery, states
from celery.events.state import State

import models
from models import list_mapped
from models.lifecycle import Job, Lifecycle, Step
from workers.runtime.handler.context import Run
from workers.runtime.handler.registry import Registry, Stage, discover
from workers.runtime.store.settle import Settled
from workers.runtime.worker.dead_letters import DeadLetter
from workers.transport.events import EventStream, Moved, flower_state, is_ignored

models.load_all()
STAGES: Registry = discover()
LIFECYCLES: dict[str, Lifecycle] = {str(model.__table__): model.__lifecycle__ for model in list_mapped(Job)}
# Not one of ours: it has three steps, and transitions that a domain may add.
LIFECYCLES["of three steps"] = Lifecycle(
    steps=(Step("a.one", "r1", "x1", "r2"), Step("a.two", "r2", "x2", "r3"), Step("a.three", "r3", "x3", "done")),
    retention=timedelta(days=1),
    also=frozenset({("failed", "cancelled"), ("done", "r1"), ("cancelled", "r1")}),
)
TRANSITIONS = [(name, *pair) for name, lifecycle in LIFECYCLES.items() for pair in sorted(lifecycle.transitions)]


class Flower:
    """Celery's in-memory state of tasks, as Flower uses it. It gets the events that a stream would publish."""

    def __init__(self, stages: Any = STAGES) -> None:
        self.stream = EventStream(Celery(set_as_current=False), "worker@here", stages)
        self._state: Any = State()

    def task(self, job: UUID | str) -> Any:
        """Return what Flower shows of a job after all waiting events."""
        waiting, self.stream._waiting = self.stream._waiting, []
        for type_, fields in waiting:
            common = {"hostname": "worker@here", "pid": 1, "clock": 1, "utcoffset": 0, "local_received": time.time()}
            self._state.event({"type": type_, **common, **fields})
        return self._state.tasks.get(str(job))


def expected(lifecycle: Lifecycle, old: str, new: str) -> str:
    """Return the expected state, computed without the code under test."""
    kinds = {"good": "SUCCESS", "bad": "FAILURE", "neutral": "REVOKED"}
    ends = {lifecycle.completed: "SUCCESS", lifecycle.failed: "FAILURE", lifecycle.cancelled: "REVOKED"}
    ends |= {end.state: kinds[end.counts_as] for end in lifecycle.ends}
    if new in ends:
        return ends[new]
    waits = {wait.state for wait in lifecycle.waits}
    if new in lifecycle.running or {old, new} & waits:
        return "STARTED"
    goes_on = any(step.running == old and step.done == new for step in lifecycle.steps)
    return "STARTED" if goes_on else "RETRY"


def paths_to(lifecycle: Lifecycle, state: str) -> Iterator[list[tuple[str, str]]]:
    """Yield paths from a new job to ``state``, each transition at most once; the shortest first."""
    paths: list[list[tuple[str, str]]] = [[]]
    while paths:
        path = paths.pop(0)
        at = path[-1][1] if path else lifecycle.initial
        if at == state:
            yield path
        paths += [[*path, pair] for pair in sorted(lifecycle.transitions) if pair[0] == at and pair not in path]
        if len(paths) > 3_000:
            return


@pytest.mark.parametrize(("table", "old", "new"), TRANSITIONS)
def test_flower_shows_the_state_of_a_job_after_every_transition(table: str, old: str, new: str) -> None:
    """The state does not depend on the path: no earlier state hides the current one."""
    lifecycle = LIFECYCLES[table]
    for path, _ in zip(paths_to(lifecycle, old), range(12), strict=False):
        flower, job = Flower(), uuid.uuid4()
        for version, pair in enumerate([*path, (old, new)], start=2):
            stage = next(
                (s.stage for s in lifecycle.steps if pair[0] in {s.ready, s.running}), lifecycle.steps[-1].stage
            )
            flower.stream.moved(lifecycle, Moved(job, stage, version, *pair, "cancel", "because", None))
            assert flower.task(job).state == expected(lifecycle, *pair), (path, pair)


@pytest.mark.parametrize("stage", STAGES.values(), ids=lambda stage: stage.name)
@pytest.mark.parametrize("before", [states.PENDING, states.RETRY, states.FAILURE, states.REVOKED, states.SUCCESS])
def test_a_run_that_starts_is_shown_whatever_was_shown_before(stage: Stage, before: str) -> None:
    """A failed job that a person sends back runs again, and is then shown like any other job."""
    lifecycle = stage.model.__lifecycle__
    outcomes = {
        "complete": stage.step.done,
        "retry": stage.step.ready,
        "snooze": stage.step.ready,
        "release": stage.step.ready,
        "fail": lifecycle.failed,
        "cancel": lifecycle.cancelled,
    }
    ends = {states.FAILURE: lifecycle.failed, states.REVOKED: lifecycle.cancelled, states.SUCCESS: lifecycle.completed}
    for action, status in outcomes.items():
        flower, job = Flower(), uuid.uuid4()
        version = 2
        if before in ends:
            moved = Moved(job, stage.name, 3, stage.step.running, ends[before], "x", None, None)
            flower.stream.moved(lifecycle, moved)
            version = 5
        elif before == states.RETRY:
            flower.stream.moved(
                lifecycle, Moved(job, stage.name, 3, stage.step.running, stage.step.ready, "x", None, None)
            )
            version = 4
        run = Run(stage.name, job, version, 1)
        flower.stream.started(run)
        assert flower.task(job).state == states.STARTED
        assert flower.task(job).name == stage.name

        row = Settled(job, version, status, action, 0, status in lifecycle.terminal, reason="why", error="why")
        flower.stream.settled(run, row, seconds=1.0)

        assert flower.task(job).state == expected(lifecycle, stage.step.running, status)


def test_success_is_shown_only_after_the_last_step() -> None:
    """An ingestion continues with its vectors. Between the steps it is STARTED, under the name of its current step."""
    flower, job = Flower(), uuid.uuid4()
    ingest, embed = (
        Run(name, job, version, 1) for name, version in (("ingestion.ingest", 2), ("vectorization.embed", 4))
    )

    flower.stream.started(ingest)
    flower.stream.settled(ingest, Settled(job, 2, "QUEUED_FOR_VEC", "complete", 0, terminal=False), seconds=1.0)
    between = (flower.task(job).state, flower.task(job).name)
    flower.stream.started(embed)
    flower.stream.settled(embed, Settled(job, 4, "FAILED", "fail", 0, terminal=True, error="401"), seconds=1.0)

    assert between == ("STARTED", "vectorization.embed")
    assert (flower.task(job).state, flower.task(job).exception) == ("FAILURE", "401")


def test_a_run_that_lost_its_job_publishes_nothing() -> None:
    """The job may have been rescued and run elsewhere. The follower publishes its state from the table."""
    flower, run = Flower(), Run("proving.plain" if "proving.plain" in STAGES else "scoring.score", uuid.uuid4(), 2, 1)
    flower.stream.started(run)

    flower.stream.stopped(run)
    flower.stream.stale(run)

    assert flower.task(run.job_id).state == "STARTED"


def test_a_refused_message_is_a_failed_task_with_its_reason_and_without_its_content() -> None:
    """Its id is the message's, or one made from its content: the same content is the same task."""
    flower = Flower()
    secret = b'[["scoring.score", {"prompt": "hunter2"}], {}, {}]'
    for message_id in ("m-1", None, None):
        flower.stream.refused(
            DeadLetter("payload: profile_id is required, got 'hunter2'", secret, "gristmill.enqueue", message_id)
        )

    named = flower.task("m-1")
    assert (named.state, named.name) == ("FAILURE", "gristmill.enqueue")
    assert named.exception == "refused: payload: profile_id is required"
    assert len(flower._state.tasks) == 2
    assert "hunter2" not in str([task.as_dict() for task in flower._state.tasks.values()])


def test_every_pair_of_states_that_celery_would_hide_is_known() -> None:
    """The rule agrees with Celery: if a state would be ignored, it is published after a retry."""
    events = {
        "SUCCESS": "task-succeeded",
        "FAILURE": "task-failed",
        "REVOKED": "task-revoked",
        "STARTED": "task-started",
        "RETRY": "task-retried",
    }
    for before, state in product(events, repeat=2):
        memory: Any = State()
        for type_ in (events[before], events[state]):
            memory.event({"type": type_, "uuid": "j", "hostname": "w", "pid": 1, "clock": 1, "timestamp": 1.0,
                          "local_received": 1.0, "utcoffset": 0})  # fmt: skip
        assert (memory.tasks["j"].state != state) == is_ignored(state, before=before), (before, state)


def test_a_new_job_is_pending() -> None:
    """No worker has run it yet."""
    for lifecycle in LIFECYCLES.values():
        assert flower_state(lifecycle, None, lifecycle.initial) == "PENDING"
