"""Represent all worlds that behave alike by one canonical world, so that the number of worlds is finite.

Versions are relative to the version of the row, because no rule asks how old a stale fence is. So there is no bound on
how often a job is snoozed, released, lost or dispatched again.
"""

from typing import Any

from tests.model.statements import ModelRow
from tests.model.world import SETTLING, STOPPING, WORKERS, Asking, JobMessage, JobWorld, ModelRun

# Versions in a canonical world: of the row; of a message that the present run may have claimed; of any older message.
CURRENT, BEFORE, STALE = 9, 8, 0


def canonical(world: JobWorld) -> JobWorld:
    """Return the canonical world for all worlds that behave like ``world``.

    - All stale messages are equal, except a message that the present run has claimed: a worker may find that claim.
    - A stale run that will not continue is equal to a run that was told to stop.
    - The order of stale runs is kept, because a worker starts no run beside a newer one.
    - Values that no rule reads are left out.
    - The two workers are equal: of the two mirrored worlds, the smaller one is used.
    """
    row, messages, runs, asking, page = world
    at = row.version
    stale = sorted({run.version for run in runs if run.version != at})
    versions = {version: CURRENT - len(stale) + n for n, version in enumerate(stale)}
    versions[at] = CURRENT
    owner = row.owner if row.ticket else None  # no rule reads the owner of an ended job
    before = at - 1 if owner in WORKERS else None
    # Rules read only how many attempts are left and whether one was spent. An operator can grant any number.
    spent = min(row.retry_count, 1)
    plain = JobWorld(
        ModelRow(
            *(row.status, CURRENT, spent, spent + row.max_retries - row.retry_count, row.ticket, row.due, owner),
            failed_in=row.failed_in,
            over=row.over,
        ),
        tuple(sorted([_aged(message, at, before) for message in messages])),
        tuple(sorted([_known(run, versions, at) for run in runs])),
        tuple(sorted([Asking(one.worker, _aged(one.message, at, before)) for one in asking if _may_get(one, row)])),
        page if page is None else CURRENT if page == at else STALE,
    )
    if row.owner in WORKERS or runs or asking:
        return min(plain, _mirrored(plain), key=_by_workers)
    return plain


def _aged(message: JobMessage, at: int, before: int | None) -> JobMessage:
    if message.version == at:
        return JobMessage(message.step, CURRENT)
    return JobMessage(message.step, BEFORE) if message.version == before else JobMessage(0, STALE)


def _may_get(asking: Asking, row: ModelRow) -> bool:
    """Return whether asking again may return something: the job, or its earlier claim without an answer."""
    version = asking.message.version
    return version == row.version or (version == row.version - 1 and asking.worker == row.owner)


def _known(run: ModelRun, versions: dict[int, int], at: int) -> ModelRun:
    phase = STOPPING if run.phase == SETTLING and run.version != at else run.phase
    return ModelRun(run.worker, versions[run.version], run.step, phase, run.watched)


def _mirrored(world: JobWorld) -> JobWorld:
    row, messages, runs, asking, page = world
    return JobWorld(
        row._replace(owner=1 - row.owner) if row.owner in WORKERS else row,
        messages,
        tuple(sorted([ModelRun(1 - run[0], *run[1:]) for run in runs])),
        tuple(sorted([Asking(1 - one[0], one[1]) for one in asking])),
        page,
    )


def _by_workers(world: JobWorld) -> tuple[Any, ...]:
    return world.runs, world.asking, world.row.owner is None or world.row.owner
