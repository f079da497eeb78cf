"""The expected contents of the store: each job's row by the model, its history, paused stages and silent workers."""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from models.lifecycle import Job
from tests.model.statements import ModelRow, Statements
from workers.runtime.handler.registry import Stage
from workers.runtime.store.claim import Ticket
from workers.runtime.store.dispatch import Window
from workers.runtime.store.settle import Settled


class ExpectedTransition(NamedTuple):
    """One row of ``runtime.transitions``."""

    version_from: int | None
    version_to: int
    stage: str
    old_state: str | None
    new_state: str
    action: str | None
    reason: str | None
    by: str


@dataclass(slots=True)
class ExpectedJob:
    """One job. ``time_came``: its ``due_at`` has passed. ``long_out``: its ticket is old; ``overdue``: its run is."""

    id: UUID
    model: type[Job]
    statements: Statements
    row: ModelRow
    priority: int
    key: str
    created_at: datetime
    history: list[ExpectedTransition]
    time_came: bool = False
    long_out: bool = False
    overdue: bool = False
    result: Any = None

    @property
    def turn(self) -> tuple[int, datetime, UUID]:
        """Its place in the order of dispatch."""
        return self.priority, self.created_at, self.id


@dataclass(slots=True)
class Ledger:
    """The jobs of one example. ``tally`` counts every effect, so that a test without effects does not pass."""

    tally: Counter[str]
    jobs: dict[UUID, ExpectedJob] = field(default_factory=dict)
    keys: dict[tuple[type[Job], str], UUID] = field(default_factory=dict)
    paused: set[str] = field(default_factory=set)
    silent: dict[Hashable, bool] = field(default_factory=dict)

    def of(self, model: type[Job]) -> Iterator[ExpectedJob]:
        return (entry for entry in self.jobs.values() if entry.model is model)

    def apply(self, entry: ExpectedJob, after: ModelRow | None, *, by: str) -> bool:
        """Store the row after a statement; return whether the statement had an effect."""
        before, verb = entry.row, after.action if after else None
        if after is None:
            return False
        if after.version != before.version:
            stage = _stage_of(
                entry.model, before.failed_in or before.status
            )  # a failed job belongs to the step in which it failed
            versions = before.version, after.version
            entry.history.append(
                ExpectedTransition(*versions, stage, before.status, after.status, verb, after.reason, by)
            )
            entry.overdue = False
            self.tally[f"{before.status} -> {after.status}"] += 1
            self.tally[f"{verb}"] += 1
        if not after.due:
            entry.time_came = False
        if not after.ticket:
            entry.long_out = False
        entry.row = after
        return True

    # ── what each statement is expected to do ────────────────────────────────────────────────────────────────────────

    def pick(self, stage: Stage, window: Window, *, cursor: str | None, by: str) -> list[Ticket]:
        """Give the tickets that the leader's statement should give; return them in the same order."""
        jobs = list(self.of(stage.model))
        out = [entry for entry in jobs if entry.row.ticket]
        running = sum(entry.row.status == stage.step.running for entry in out)
        waiting = sum(entry.row.status == stage.step.ready for entry in out)
        room = min(window.at_most, max(2 * (window.slots - running), window.floor) - waiting)
        free = [entry for entry in jobs if entry.row.status == stage.step.ready and entry.statements.mark(entry.row)]
        chosen = sorted(free, key=lambda entry: entry.turn)
        if stage.limit is not None:
            chosen = _in_turn(chosen, out, at_most=stage.limit.at_most, window=window.at_most, cursor=cursor)
        chosen = chosen[: max(room, 0)]
        for entry in chosen:
            self.apply(entry, entry.statements.mark(entry.row), by=by)
        self.tally["pick"] += bool(chosen)
        self.tally["pick held back"] += len(chosen) < len(free)
        return [(entry.id, entry.row.version) for entry in chosen]

    def claim(self, stage: Stage, tickets: Sequence[Ticket], *, owner: UUID, by: str) -> set[tuple[UUID, int]]:
        """Return the claimed jobs with their fences."""
        claimed = set()
        for job_id, version in tickets:
            entry = self.jobs[job_id]
            if self.apply(entry, entry.statements.claim(entry.row, stage.step, version, owner=owner), by=by):
                claimed.add((job_id, entry.row.version))
            else:
                self.tally["claim refused"] += 1
        return claimed

    def settle(self, rows: Sequence[Settled], *, by: str) -> set[UUID]:
        taken = set()
        for row in rows:
            entry = self.jobs[row.job_id]
            if self.apply(entry, entry.statements.settle(entry.row, row), by=by):
                taken.add(row.job_id)
                entry.result = row.values.get("result", entry.result)
            else:
                self.tally["settle refused"] += 1
        return taken

    def settled_by(self, rows: Sequence[Settled], by: str) -> set[UUID]:
        return {
            row.job_id
            for row in rows
            if any(
                (change.version_to, change.action, change.by) == (row.fence + 1, row.action, by)
                for change in self.jobs[row.job_id].history
            )
        }

    def rescue(self, stage: Stage, *, patient: bool, by: str) -> int:
        """Rescue runs that nobody can finish. A ``patient`` leader has led too short to judge leases and deadlines."""
        rescued = 0
        for entry in self.of(stage.model):
            owner = entry.row.owner
            orphaned = owner not in self.silent or (self.silent[owner] and not patient)
            if orphaned or (entry.overdue and not patient):
                reason = "worker fell silent" if orphaned else "deadline passed"
                took = self.apply(entry, entry.statements.rescue(entry.row, stage.step, reason=reason), by=by)
                rescued += took
                self.tally[reason] += took
        return rescued

    def each(self, ids: Sequence[UUID], change: Callable[[ExpectedJob], ModelRow | None], *, by: str) -> set[UUID]:
        """Apply ``change`` to each job; return the jobs that changed."""
        return {job_id for job_id in ids if self.apply(self.jobs[job_id], change(self.jobs[job_id]), by=by)}


def _in_turn(
    free: Sequence[ExpectedJob], out: Sequence[ExpectedJob], *, at_most: int, window: int, cursor: str | None
) -> list[ExpectedJob]:
    """Return the jobs with the keys in turn; of each key only as many as its limit allows."""
    flight = Counter(entry.key for entry in out)
    by_key: dict[str, list[ExpectedJob]] = defaultdict(list)
    for entry in free:
        if cursor is None or entry.key > cursor:
            by_key[entry.key].append(entry)
    turns = [
        (turn, entry)
        for key, entries in by_key.items()
        for turn, entry in enumerate(entries[: max(0, min(at_most - flight[key], window))])
    ]
    return [entry for _, entry in sorted(turns, key=lambda one: (one[0], one[1].turn))]


def _stage_of(model: type[Job], state: str) -> str:
    lifecycle = model.__lifecycle__
    return (lifecycle.step_of(state) or lifecycle.steps[-1]).stage
