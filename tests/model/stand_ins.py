"""One world for all that behave alike, so that few stand for the endlessly many that executions without end pass.

Versions count from the row's: no rule asks how old a stale fence is. Nothing so bounds how often a job is snoozed,
released, lost or dispatched again.
"""

from typing import Any

from tests.model.statements import Row
from tests.model.world import SETTLING, TOLD, WORKERS, Asking, Message, Run, World

# The row's version in a canonical world; that of a message whose claim may be what runs; that of any older one.
CURRENT, BEFORE, STALE = 9, 8, 0


def canonical(world: World) -> World:
    """Return the one world that stands for all that behave as ``world`` does.

    A stale message is as good as any other, unless its claim is what runs: then its twin may find it. A stale run
    that will not go on is as good as one that was told to stop; of stale runs it matters which is older, for a worker
    starts none beside a newer one. What no rule reads is left out. The two workers are alike: the smaller reading
    stands for both.
    """
    row, road, runs, asking, page = world
    at = row.version
    stale = sorted({run.version for run in runs if run.version != at})
    versions = {version: CURRENT - len(stale) + n for n, version in enumerate(stale)}
    versions[at] = CURRENT
    owner = row.owner if row.ticket else None  # nobody asks who owned what has ended
    before = at - 1 if owner in WORKERS else None
    # How many attempts are left, and whether any was spent, is all that is read: an operator grants them without end.
    spent = min(row.retry_count, 1)
    plain = World(
        Row(
            *(row.status, CURRENT, spent, spent + row.max_retries - row.retry_count, row.ticket, row.due, owner),
            failed_in=row.failed_in,
            over=row.over,
        ),
        tuple(sorted([_aged(message, at, before) for message in road])),
        tuple(sorted([_known(run, versions, at) for run in runs])),
        tuple(sorted([Asking(one.worker, _aged(one.message, at, before)) for one in asking if _may_get(one, row)])),
        page if page is None else CURRENT if page == at else STALE,
    )
    if row.owner in WORKERS or runs or asking:
        return min(plain, _mirrored(plain), key=_by_workers)
    return plain


def _aged(message: Message, at: int, before: int | None) -> Message:
    if message.version == at:
        return Message(message.step, CURRENT)
    return Message(message.step, BEFORE) if message.version == before else Message(0, STALE)


def _may_get(asking: Asking, row: Row) -> bool:
    """Tell whether asking again may bring anything: the job, or the claim of it that went unanswered."""
    version = asking.message.version
    return version == row.version or (version == row.version - 1 and asking.worker == row.owner)


def _known(run: Run, versions: dict[int, int], at: int) -> Run:
    phase = TOLD if run.phase == SETTLING and run.version != at else run.phase
    return Run(run.worker, versions[run.version], run.step, phase, run.watched)


def _mirrored(world: World) -> World:
    row, road, runs, asking, page = world
    return World(
        row._replace(owner=1 - row.owner) if row.owner in WORKERS else row,
        road,
        tuple(sorted([Run(1 - run[0], *run[1:]) for run in runs])),
        tuple(sorted([Asking(1 - one[0], one[1]) for one in asking])),
        page,
    )


def _by_workers(world: World) -> tuple[Any, ...]:
    return world.runs, world.asking, world.row.owner is None or world.row.owner
