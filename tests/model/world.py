"""One job and all that may happen around it: two workers, a road that loses, doubles and reorders, leaders that change.

A :class:`World` is everything that matters at one instant; :meth:`Around.moves` lists what can happen next. A move is
*fair* if it happens in the end by itself: the leader works, a message that is not lost arrives, a handler ends, time
passes. What breaks and what an operator does is not fair: no proof of an end may count on it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, NamedTuple

from models.lifecycle import Job, Step
from tests.model.statements import ALL, Defences, Row, Statements
from workers.runtime.handler.outcomes import Cancel, Complete, Fail, Release, Retry, Settlement, Snooze
from workers.runtime.store.settle import Settled
from workers.runtime.worker.settled_row import settled_row

WORKERS = (0, 1)
DEAD = 2  # the owner that a crash leaves behind: a process nobody hears from

OUTCOMES: dict[str, Settlement] = {
    "complete": Complete(),
    "snooze": Snooze(timedelta(seconds=1), "quota"),
    "release": Release("drain"),
    "retry": Retry("boom"),
    "fail": Fail("bad"),
    "cancel": Cancel("unwanted"),
}

# Where a run is: its claim is answered, its handler runs, it was told to stop, its settle may have committed.
CLAIMED, RUNNING, TOLD, SETTLING = range(4)


class Message(NamedTuple):
    step: int
    version: int


class Run(NamedTuple):
    """One claim in the memory of a worker. ``watched``: the worker's fence check still looks at it."""

    worker: int
    version: int
    step: int
    phase: int
    watched: bool = False


class Asking(NamedTuple):
    """A worker whose claim of a message got no answer: it will ask again, and may have got the job already."""

    worker: int
    message: Message


class World(NamedTuple):
    """One instant: the row, the messages about it, who runs it or believes so, and who asks for it again.

    ``page`` is the version of the wait that a person has before their eyes.
    """

    row: Row
    road: tuple[Message, ...] = ()
    runs: tuple[Run, ...] = ()
    asking: tuple[Asking, ...] = ()
    page: int | None = None


class Move(NamedTuple):
    """Something that can happen. ``fence``: it writes under this one; ``claims``: by this message; ``by``: this run.

    ``decides``: it is a decision that takes effect.
    """

    what: str
    after: World
    fair: bool = False
    fence: int | None = None
    claims: Message | None = None
    by: Run | None = None
    decides: bool = False


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much may be under way at once. Executions are unbounded."""

    messages: int
    runs: int
    asking: int


class Around:
    """What can happen to one job of ``model``."""

    def __init__(self, model: type[Job], *, max_retries: int, defences: Defences = ALL, bounds: Bounds) -> None:
        self.model = model
        self.lifecycle = model.__lifecycle__
        self.statements = Statements(self.lifecycle, defences)
        self.first = World(Row(self.lifecycle.initial, max_retries=max_retries))
        self._defences = defences
        self._bounds = bounds
        self._step_of = {
            state: n for n, step in enumerate(self.lifecycle.steps) for state in (step.ready, step.running)
        }
        self._decided = cache(self._decide)

    def moves(self, world: World) -> Iterator[Move]:
        """Everything that can happen next."""
        yield from self._leaders(world)
        yield from self._road(world)
        yield from self._asking(world)
        for run in dict.fromkeys(world.runs):
            yield from self._run(world, run)
        yield from self._time(world)
        yield from self._person(world)
        yield from self._breakage(world)
        yield from self._operator(world)

    def _step(self, world: World) -> Step:
        return self.lifecycle.steps[self._step_of[world.row.status]]

    # ── dispatcher ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _leaders(self, world: World) -> Iterator[Move]:
        """Mark and publish are one move with several ends: whatever comes between may as well come after.

        A leader that is deposed in between publishes late, which is a slow message; its statements reach nobody.
        """
        row = world.row
        if row.status not in self.lifecycle.ready:
            return
        if marked := self.statements.mark(row):
            ticket = Message(self._step_of[row.status], row.version)
            yield Move("leader marks and dies", world._replace(row=marked))
            if self._room(world):
                road = (*world.road, ticket)
                yield Move("leader dispatches", World(marked, road, *world[2:]), fair=True)
                taken_back = self.statements.unmark_exactly(marked, ticket.version) or marked
                yield Move("leader dispatches, hears no answer and takes back", World(taken_back, road, *world[2:]))
        if self._defences.tickets_expire and (unmarked := self.statements.unmark(row, self._step(world))):
            yield Move("leader unmarks", world._replace(row=unmarked), fair=True)

    def _room(self, world: World) -> bool:
        return len(world.road) < self._bounds.messages

    # ── road and claim ───────────────────────────────────────────────────────────────────────────────────────────────

    def _road(self, world: World) -> Iterator[Move]:
        for message in dict.fromkeys(world.road):
            taken = world._replace(road=without(world.road, message))
            yield Move("message lost", taken)
            if self._room(world):
                yield Move("message doubled", world._replace(road=(*world.road, message)))
            handed_back = self.statements.unmark_exactly(world.row, message.version) or world.row
            yield Move("full worker hands the message back", taken._replace(row=handed_back))
            for worker in WORKERS:
                yield from self._deliver(taken, message, worker)

    def _deliver(self, world: World, message: Message, worker: int) -> Iterator[Move]:
        yield from self._claim(f"worker {worker} claims", world, message, worker)
        if len(world.asking) < self._bounds.asking:
            asking = world._replace(asking=(*world.asking, Asking(worker, message)))
            yield Move(f"worker {worker} fails to claim", asking)
            if claimed := self._claimed(world, message, worker):
                yield Move(
                    f"worker {worker} claims without an answer",
                    asking._replace(row=claimed),
                    claims=message,
                )

    def _claim(self, what: str, world: World, message: Message, worker: int) -> Iterator[Move]:
        claimed = self._claimed(world, message, worker)
        if claimed is None:
            yield Move(f"{what} in vain", world, fair=True)
        elif len(world.runs) < self._bounds.runs:
            after = world._replace(row=claimed)
            yield Move(what, self._in_hand(after, message.step, worker), fair=True, claims=message)

    def _claimed(self, world: World, message: Message, worker: int) -> Row | None:
        return self.statements.claim(world.row, self.lifecycle.steps[message.step], message.version, owner=worker)

    def _in_hand(self, world: World, step: int, worker: int) -> World:
        return world._replace(runs=(*world.runs, Run(worker, world.row.version, step, CLAIMED)))

    def _asking(self, world: World) -> Iterator[Move]:
        for asking in world.asking:
            worker, message = asking
            answered = world._replace(asking=without(world.asking, asking))
            step = self.lifecycle.steps[message.step]
            if self.statements.claimed_before(world.row, step, message.version, owner=worker):
                if len(world.runs) < self._bounds.runs:
                    got = self._in_hand(answered, message.step, worker)
                    yield Move(f"worker {worker} asks again and has it", got, fair=True)
            else:
                yield from self._claim(f"worker {worker} asks again and claims", answered, message, worker)
            yield Move(f"worker {worker} drains and asks no more", answered)

    # ── run ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _run(self, world: World, run: Run) -> Iterator[Move]:
        name = f"run of worker {run.worker}{'' if run.version == world.row.version else ' (stale)'}"
        ended = world._replace(runs=without(world.runs, run))
        if run.phase == CLAIMED:
            yield Move(f"{name} starts", self._launched(ended, run), fair=True, by=run)
            return
        yield from self._settles(world, run, ended, name)
        if run.phase == TOLD:
            yield Move(f"{name} stops", ended, fair=True)
        if run.phase == RUNNING or (run.phase == TOLD and not self._defences.told_run_stops):
            yield Move(f"{name} calls the provider", world, by=run)
        if run.phase == RUNNING:
            yield Move(f"{name} is lost", ended)
            told = ended._replace(runs=(*ended.runs, run._replace(phase=TOLD)))
            if run.watched and run.version != world.row.version:
                yield Move(f"{name} is told to stop", told, fair=True)
            written = self.statements.set_progress(world.row, run.version, 50)
            if written is None:
                yield Move(f"{name} writes progress in vain and stops", told)
            else:
                yield Move(f"{name} writes progress", world._replace(row=written), fence=run.version)

    def _settles(self, world: World, run: Run, ended: World, name: str) -> Iterator[Move]:
        """The handler has ended, however: its outcome is settled, once or, for want of an answer, again."""
        running = self.lifecycle.steps[run.step].running
        for outcome in (*OUTCOMES, *sorted(new for old, new in self.lifecycle.also if old == running)):
            spent, most = world.row.retry_count, world.row.max_retries
            row = self.statements.settle(world.row, self._decided(spent, most, run.version, run.step, outcome))
            if row is None:
                yield Move(f"{name} settles in vain", ended, fair=True)
                return
            settled = ended._replace(row=row)
            yield Move(f"{name} settles: {outcome}", settled, fair=outcome == "complete", fence=run.version)
            if run.phase != SETTLING:
                again = run._replace(phase=SETTLING)
                unanswered = settled._replace(runs=(*settled.runs, again))
                yield Move(f"{name} settles: {outcome}, without an answer", unanswered, fence=run.version)

    def _decide(self, retry_count: int, max_retries: int, version: int, step: int, outcome: str) -> Settled:
        """Ask the kernel's own decision, of a job as it was claimed: none that holds its fence has changed since."""
        job = self.model(version=version, retry_count=retry_count, max_retries=max_retries)
        settlement = OUTCOMES.get(outcome) or Complete(into=outcome)
        return settled_row(job, self.lifecycle.steps[step], self.lifecycle, settlement, draw=lambda: 0.5)

    def _launched(self, world: World, run: Run) -> World:
        """Start what was claimed, unless this process runs as new a version; an older run of the job is told to end."""
        runs = []
        for other in world.runs:
            if not (other.worker == run.worker and other.watched):
                runs.append(other)
            elif other.version >= run.version and self._defences.launch_looks_for_twin:
                return world
            else:
                told = other.phase == RUNNING and self._defences.launch_ends_older_run
                runs.append(other._replace(watched=False, phase=TOLD if told else other.phase))
        return world._replace(runs=(*runs, run._replace(phase=RUNNING, watched=True)))

    # ── time, breakage, people ───────────────────────────────────────────────────────────────────────────────────────

    def _time(self, world: World) -> Iterator[Move]:
        row = world.row
        if woken := self.statements.wake(row):
            yield Move("its time comes", world._replace(row=woken), fair=True)
        if row.status in self.lifecycle.running and (
            freed := self.statements.rescue(row, self._step(world), reason="")
        ):
            # By lease or deadline, at any time; an end may depend on it only where nobody has the job in hand.
            if any(run.version == row.version for run in world.runs):
                yield Move("rescue from a living worker", world._replace(row=freed))
            else:
                yield Move("rescue", world._replace(row=freed), fair=True)
        if row.status in self.lifecycle.waiting and not row.over:
            yield Move("its deadline passes", world._replace(row=row._replace(over=True)), fair=True)
        if expired := self.statements.expire(row, reason=""):
            yield Move("beat ends the wait", world._replace(row=expired), fair=True)

    def _person(self, world: World) -> Iterator[Move]:
        """Somebody looks at what waits and decides, now or much later; nobody must."""
        row, page = world.row, world.page
        if row.status in self.lifecycle.waiting and page != row.version:
            yield Move("a person looks", world._replace(page=row.version))
        if page is None:
            return
        in_vain = True
        for into in sorted({state for wait in self.lifecycle.waits for state in wait.decides}):
            if decided := self.statements.decide(row, page, into, reason=""):
                in_vain = False
                after = world._replace(row=decided, page=None)
                yield Move(f"a person decides: {into}", after, fence=page, decides=True)
        if in_vain:
            yield Move("a person decides in vain", world._replace(page=None))

    def _breakage(self, world: World) -> Iterator[Move]:
        for worker in WORKERS:
            runs = tuple(run for run in world.runs if run.worker != worker)
            asking = tuple(one for one in world.asking if one.worker != worker)
            owned = world.row.owner == worker
            if owned or len(runs) < len(world.runs) or len(asking) < len(world.asking):
                row = world.row._replace(owner=DEAD) if owned else world.row
                yield Move(f"worker {worker} crashes", World(row, world.road, runs, asking, world.page))

    def _operator(self, world: World) -> Iterator[Move]:
        if cancelled := self.statements.cancel(world.row, reason="unwanted"):
            yield Move("cancel", world._replace(row=cancelled))
        if retried := self.statements.retry(world.row, reason="again"):
            yield Move("operator retries", world._replace(row=retried))


def without(items: tuple[Any, ...], item: Any) -> tuple[Any, ...]:
    """Return ``items`` with one ``item`` less."""
    n = items.index(item)
    return items[:n] + items[n + 1 :]
