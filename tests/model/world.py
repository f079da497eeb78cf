"""One job and all that may happen to it: two workers, changing leaders, messages that are lost, repeated or reordered.

A :class:`JobWorld` is the whole state at one moment; :meth:`Around.moves` lists what can happen next. A move is *fair*
if it happens by itself sooner or later: the leader works, a message that is not lost arrives, a handler ends, time
passes. Failures and the actions of operators are not fair: the proof that a job can end may not use them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, NamedTuple

from models.lifecycle import Job, Step
from tests.model.statements import ALL, Defences, ModelRow, Statements
from workers.runtime.handler.outcomes import Cancel, Complete, Fail, Release, Retry, Settlement, Snooze
from workers.runtime.store.settle import Settled
from workers.runtime.worker.settled_row import settled_row

WORKERS = (0, 1)
DEAD = 2  # the owner of a job after its worker crashed

OUTCOMES: dict[str, Settlement] = {
    "complete": Complete(),
    "snooze": Snooze(timedelta(seconds=1), "quota"),
    "release": Release("drain"),
    "retry": Retry("boom"),
    "fail": Fail("bad"),
    "cancel": Cancel("unwanted"),
}

# The phase of a run: its claim is answered, its handler runs, it was told to stop, its settle may be committed.
CLAIMED, RUNNING, STOPPING, SETTLING = range(4)


class JobMessage(NamedTuple):
    step: int
    version: int


class ModelRun(NamedTuple):
    """One claim in the memory of a worker. ``watched``: the fence check of the worker includes it."""

    worker: int
    version: int
    step: int
    phase: int
    watched: bool = False


class Asking(NamedTuple):
    """A worker that got no answer to its claim of a message. It will ask again, and may have the job already."""

    worker: int
    message: JobMessage


class JobWorld(NamedTuple):
    """One moment: the row, the messages about it, the runs in the workers, and the claims without an answer.

    ``page``: the version of the wait that a person sees.
    """

    row: ModelRow
    messages: tuple[JobMessage, ...] = ()
    runs: tuple[ModelRun, ...] = ()
    asking: tuple[Asking, ...] = ()
    page: int | None = None


class WorldMove(NamedTuple):
    """Something that can happen.

    ``fence``: the fence of its write; ``claims``: the message by which it claims; ``by``: the run that acts;
    ``decides``: it is a decision that has an effect.
    """

    what: str
    after: JobWorld
    fair: bool = False
    fence: int | None = None
    claims: JobMessage | None = None
    by: ModelRun | None = None
    decides: bool = False


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many messages, runs and unanswered claims may exist at once. The number of moves has no bound."""

    messages: int
    runs: int
    asking: int


class Around:
    """What can happen to one job of ``model``."""

    def __init__(self, model: type[Job], *, max_retries: int, defences: Defences = ALL, bounds: Bounds) -> None:
        self.model = model
        self.lifecycle = model.__lifecycle__
        self.statements = Statements(self.lifecycle, defences)
        self.first = JobWorld(ModelRow(self.lifecycle.initial, max_retries=max_retries))
        self._defences = defences
        self._bounds = bounds
        self._step_of = {
            state: n for n, step in enumerate(self.lifecycle.steps) for state in (step.ready, step.running)
        }
        self._decided = cache(self._decide)

    def moves(self, world: JobWorld) -> Iterator[WorldMove]:
        """Yield everything that can happen next."""
        yield from self._leaders(world)
        yield from self._deliveries(world)
        yield from self._asking(world)
        for run in dict.fromkeys(world.runs):
            yield from self._run(world, run)
        yield from self._time(world)
        yield from self._person(world)
        yield from self._breakage(world)
        yield from self._operator(world)

    def _step(self, world: JobWorld) -> Step:
        return self.lifecycle.steps[self._step_of[world.row.status]]

    # ── dispatcher ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _leaders(self, world: JobWorld) -> Iterator[WorldMove]:
        """Yield the moves of the leader. Giving a ticket and publishing is one move with several results.

        An event between the two has the same effect as after them. If a leader loses its lead in between, it publishes
        late, which is the same as a slow message, and its statements change nothing.
        """
        row = world.row
        if row.status not in self.lifecycle.ready:
            return
        if marked := self.statements.mark(row):
            ticket = JobMessage(self._step_of[row.status], row.version)
            yield WorldMove("leader marks and dies", world._replace(row=marked))
            if self._room(world):
                messages = (*world.messages, ticket)
                yield WorldMove("leader dispatches", JobWorld(marked, messages, *world[2:]), fair=True)
                taken_back = self.statements.unmark_exactly(marked, ticket.version) or marked
                yield WorldMove(
                    "leader dispatches, gets no answer and takes back", JobWorld(taken_back, messages, *world[2:])
                )
        if self._defences.tickets_expire and (unmarked := self.statements.unmark(row, self._step(world))):
            yield WorldMove("leader unmarks", world._replace(row=unmarked), fair=True)

    def _room(self, world: JobWorld) -> bool:
        return len(world.messages) < self._bounds.messages

    # ── messages and claim ───────────────────────────────────────────────────────────────────────────────────────────

    def _deliveries(self, world: JobWorld) -> Iterator[WorldMove]:
        for message in dict.fromkeys(world.messages):
            taken = world._replace(messages=without(world.messages, message))
            yield WorldMove("message lost", taken)
            if self._room(world):
                yield WorldMove("message doubled", world._replace(messages=(*world.messages, message)))
            handed_back = self.statements.unmark_exactly(world.row, message.version) or world.row
            yield WorldMove("full worker hands the message back", taken._replace(row=handed_back))
            for worker in WORKERS:
                yield from self._deliver(taken, message, worker)

    def _deliver(self, world: JobWorld, message: JobMessage, worker: int) -> Iterator[WorldMove]:
        yield from self._claim(f"worker {worker} claims", world, message, worker)
        if len(world.asking) < self._bounds.asking:
            asking = world._replace(asking=(*world.asking, Asking(worker, message)))
            yield WorldMove(f"worker {worker} fails to claim", asking)
            if claimed := self._claimed(world, message, worker):
                yield WorldMove(
                    f"worker {worker} claims without an answer",
                    asking._replace(row=claimed),
                    claims=message,
                )

    def _claim(self, what: str, world: JobWorld, message: JobMessage, worker: int) -> Iterator[WorldMove]:
        claimed = self._claimed(world, message, worker)
        if claimed is None:
            yield WorldMove(f"{what} in vain", world, fair=True)
        elif len(world.runs) < self._bounds.runs:
            after = world._replace(row=claimed)
            yield WorldMove(what, self._in_hand(after, message.step, worker), fair=True, claims=message)

    def _claimed(self, world: JobWorld, message: JobMessage, worker: int) -> ModelRow | None:
        return self.statements.claim(world.row, self.lifecycle.steps[message.step], message.version, owner=worker)

    def _in_hand(self, world: JobWorld, step: int, worker: int) -> JobWorld:
        return world._replace(runs=(*world.runs, ModelRun(worker, world.row.version, step, CLAIMED)))

    def _asking(self, world: JobWorld) -> Iterator[WorldMove]:
        for asking in world.asking:
            worker, message = asking
            answered = world._replace(asking=without(world.asking, asking))
            step = self.lifecycle.steps[message.step]
            if self.statements.claimed_before(world.row, step, message.version, owner=worker):
                if len(world.runs) < self._bounds.runs:
                    got = self._in_hand(answered, message.step, worker)
                    yield WorldMove(f"worker {worker} asks again and has it", got, fair=True)
            else:
                yield from self._claim(f"worker {worker} asks again and claims", answered, message, worker)
            yield WorldMove(f"worker {worker} drains and asks no more", answered)

    # ── run ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _run(self, world: JobWorld, run: ModelRun) -> Iterator[WorldMove]:
        name = f"run of worker {run.worker}{'' if run.version == world.row.version else ' (stale)'}"
        ended = world._replace(runs=without(world.runs, run))
        if run.phase == CLAIMED:
            yield WorldMove(f"{name} starts", self._launched(ended, run), fair=True, by=run)
            return
        yield from self._settles(world, run, ended, name)
        if run.phase == STOPPING:
            yield WorldMove(f"{name} stops", ended, fair=True)
        if run.phase == RUNNING or (run.phase == STOPPING and not self._defences.stopping_run_calls_nobody):
            yield WorldMove(f"{name} calls the provider", world, by=run)
        if run.phase == RUNNING:
            yield WorldMove(f"{name} is lost", ended)
            stopping = ended._replace(runs=(*ended.runs, run._replace(phase=STOPPING)))
            if run.watched and run.version != world.row.version:
                yield WorldMove(f"{name} is told to stop", stopping, fair=True)
            written = self.statements.set_progress(world.row, run.version, 50)
            if written is None:
                yield WorldMove(f"{name} writes progress in vain and stops", stopping)
            else:
                yield WorldMove(f"{name} writes progress", world._replace(row=written), fence=run.version)

    def _settles(self, world: JobWorld, run: ModelRun, ended: JobWorld, name: str) -> Iterator[WorldMove]:
        """The handler has ended: its outcome is settled once, or again if there was no answer."""
        running = self.lifecycle.steps[run.step].running
        for outcome in (*OUTCOMES, *sorted(new for old, new in self.lifecycle.also if old == running)):
            spent, limit = world.row.retry_count, world.row.max_retries
            row = self.statements.settle(world.row, self._decided(spent, limit, run.version, run.step, outcome))
            if row is None:
                yield WorldMove(f"{name} settles in vain", ended, fair=True)
                return
            settled = ended._replace(row=row)
            yield WorldMove(f"{name} settles: {outcome}", settled, fair=outcome == "complete", fence=run.version)
            if run.phase != SETTLING:
                again = run._replace(phase=SETTLING)
                unanswered = settled._replace(runs=(*settled.runs, again))
                yield WorldMove(f"{name} settles: {outcome}, without an answer", unanswered, fence=run.version)

    def _decide(self, retry_count: int, max_retries: int, version: int, step: int, outcome: str) -> Settled:
        """Return the kernel's own decision for the job as it was claimed. While the fence holds, it has not changed."""
        job = self.model(version=version, retry_count=retry_count, max_retries=max_retries)
        settlement = OUTCOMES.get(outcome) or Complete(into=outcome)
        return settled_row(job, self.lifecycle.steps[step], self.lifecycle, settlement, draw=lambda: 0.5)

    def _launched(self, world: JobWorld, run: ModelRun) -> JobWorld:
        """Start the claimed job unless this process runs the same or a newer version; tell an older run to stop."""
        runs = []
        for other in world.runs:
            if not (other.worker == run.worker and other.watched):
                runs.append(other)
            elif other.version >= run.version and self._defences.launch_looks_for_twin:
                return world
            else:
                stops = other.phase == RUNNING and self._defences.launch_ends_older_run
                runs.append(other._replace(watched=False, phase=STOPPING if stops else other.phase))
        return world._replace(runs=(*runs, run._replace(phase=RUNNING, watched=True)))

    # ── time, breakage, people ───────────────────────────────────────────────────────────────────────────────────────

    def _time(self, world: JobWorld) -> Iterator[WorldMove]:
        row = world.row
        if woken := self.statements.wake(row):
            yield WorldMove("its time comes", world._replace(row=woken), fair=True)
        if row.status in self.lifecycle.running and (
            freed := self.statements.rescue(row, self._step(world), reason="")
        ):
            # A rescue, by lease or deadline, can happen at any time. It is fair only if no worker holds the job.
            if any(run.version == row.version for run in world.runs):
                yield WorldMove("rescue from a living worker", world._replace(row=freed))
            else:
                yield WorldMove("rescue", world._replace(row=freed), fair=True)
        if row.status in self.lifecycle.waiting and not row.over:
            yield WorldMove("its deadline passes", world._replace(row=row._replace(over=True)), fair=True)
        if expired := self.statements.expire(row, reason=""):
            yield WorldMove("beat ends the wait", world._replace(row=expired), fair=True)

    def _person(self, world: JobWorld) -> Iterator[WorldMove]:
        """A person looks at a waiting job and decides, now or much later, or never."""
        row, page = world.row, world.page
        if row.status in self.lifecycle.waiting and page != row.version:
            yield WorldMove("a person looks", world._replace(page=row.version))
        if page is None:
            return
        in_vain = True
        for into in sorted({state for wait in self.lifecycle.waits for state in wait.decides}):
            if decided := self.statements.decide(row, page, into, reason=""):
                in_vain = False
                after = world._replace(row=decided, page=None)
                yield WorldMove(f"a person decides: {into}", after, fence=page, decides=True)
        if in_vain:
            yield WorldMove("a person decides in vain", world._replace(page=None))

    def _breakage(self, world: JobWorld) -> Iterator[WorldMove]:
        for worker in WORKERS:
            runs = tuple(run for run in world.runs if run.worker != worker)
            asking = tuple(one for one in world.asking if one.worker != worker)
            owned = world.row.owner == worker
            if owned or len(runs) < len(world.runs) or len(asking) < len(world.asking):
                row = world.row._replace(owner=DEAD) if owned else world.row
                yield WorldMove(f"worker {worker} crashes", JobWorld(row, world.messages, runs, asking, world.page))

    def _operator(self, world: JobWorld) -> Iterator[WorldMove]:
        if cancelled := self.statements.cancel(world.row, reason="unwanted"):
            yield WorldMove("cancel", world._replace(row=cancelled))
        if retried := self.statements.retry(world.row, reason="again"):
            yield WorldMove("operator retries", world._replace(row=retried))


def without(items: tuple[Any, ...], item: Any) -> tuple[Any, ...]:
    """Return ``items`` without the first ``item``."""
    n = items.index(item)
    return items[:n] + items[n + 1 :]
