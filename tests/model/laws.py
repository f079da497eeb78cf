"""The rules for every world and for every move between two worlds."""

from collections.abc import Iterator
from enum import StrEnum

from models.lifecycle import Lifecycle
from tests.model.world import CLAIMED, RUNNING, STOPPING, JobWorld, WorldMove


class Law(StrEnum):
    LEGAL = "a transition is one that the lifecycle declares"
    GAPLESS = "a version grows by one with each transition, and only then"
    FINAL = "an ended job does not change, except by an operator's retry of a failed job"
    FENCED = "a write under an old fence changes nothing"
    TICKETED = "a claim takes a dispatched job, at the version of its message"
    ALONE = "only one run has the version of the row"
    COUNTED = "a running job has an owner and counts in its limit; a waiting or ended job does not"
    REACHABLE = "if the job of a run has changed, the run can be told to stop"
    KEPT = "a run is told to stop only if its job has changed"
    QUIET = "no provider call starts after the run was told to stop"
    IN_TIME = "a decision counts only before its deadline"
    ENDS = "an end can be reached by fair moves alone"


def broken_by_move(lifecycle: Lifecycle, before: JobWorld, move: WorldMove) -> Iterator[Law]:
    """Yield the laws that the move from ``before`` to ``move.after`` breaks."""
    old, new = before.row, move.after.row
    if new is not old:
        moved = new.status != old.status
        if moved and (old.status, new.status) not in lifecycle.transitions:
            yield Law.LEGAL
        if new.version - old.version != moved:
            yield Law.GAPLESS
        if old.status in lifecycle.terminal and (old.status != lifecycle.failed or move.what != "operator retries"):
            yield Law.FINAL
        if move.fence is not None and move.fence != old.version:
            yield Law.FENCED
        if move.claims and not (old.ticket and not old.due and move.claims.version == old.version):
            yield Law.TICKETED
        if move.decides and old.over:
            yield Law.IN_TIME
    if move.by and move.by.phase == STOPPING and move.after is before:
        yield Law.QUIET


def broken_in(lifecycle: Lifecycle, world: JobWorld) -> Iterator[Law]:
    """Yield the laws that ``world`` itself breaks."""
    row = world.row
    if sum(run.version == row.version and run.phase != CLAIMED for run in world.runs) > 1:
        yield Law.ALONE
    runs = row.status in lifecycle.running
    if (
        (row.owner is not None) != runs
        or (runs and not row.ticket)
        or (row.ticket and row.status in lifecycle.terminal | lifecycle.waiting)
    ):
        yield Law.COUNTED
    for run in world.runs:
        if run.phase == RUNNING and run.version != row.version and not run.watched:
            yield Law.REACHABLE
        if run.phase == STOPPING and run.version == row.version:
            yield Law.KEPT
