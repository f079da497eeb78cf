"""Handlers that take their process with them: by memory, by never yielding, by a crash of the interpreter."""

import time
from collections.abc import Sequence
from uuid import UUID

from tests.chaos.arena import LEASE_SECONDS, Arena
from tests.chaos.faults import fault

RETRIES = 1
# Two attempts of a lease and a tick each; but a worker may have to be started first, on whatever machine this is.
FAILED_WITHIN = 120.0


@fault(brief=False)
def handler_allocates_without_end(arena: Arena) -> None:
    """A handler takes all memory its process may have: it fails after its attempts, its neighbours are unharmed."""
    _ruin(arena, "hog")


@fault()
def handler_crashes_the_interpreter(arena: Arena) -> None:
    """A handler ends its process by a segmentation fault: it fails after its attempts, its neighbours are unharmed."""
    _ruin(arena, "crash")


@fault(brief=False)
def handler_never_yields(arena: Arena) -> None:
    """A handler never gives the loop back: it fails after its attempts, and its process ends itself and is replaced."""
    _ruin(arena, "spin")


def _ruin(arena: Arena, act: str) -> None:
    """Enqueue one such job among good ones; return when it has failed and every post is filled again."""
    neighbours = arena.plain(30, act="write", seconds=1.0)
    with arena.crew.may_die("worker", at_most=1 + RETRIES):
        culprits = arena.plain(1, act=act, max_retries=RETRIES)
        arena.wait(lambda: _all(arena, culprits, "failed"), f"the job that does {act!r} fails", seconds=FAILED_WITHIN)
        arena.wait(lambda: _all(arena, neighbours, "completed"), "its neighbours complete", seconds=FAILED_WITHIN)
        # The culprit may have failed elsewhere while the process it ruined first is still silent, or about to end.
        arena.wait(lambda: _all_hear(arena), "every worker shows signs of life", seconds=FAILED_WITHIN)
        arena.await_crew()
    _note_deaf(arena, culprits)
    effects = arena.ask("SELECT DISTINCT effects FROM proving.plain_jobs WHERE id = ANY (%s)", neighbours)
    arena.promise(effects == [(1,)], f"its neighbours took effect {effects} times")


def _note_deaf(arena: Arena, culprits: Sequence[UUID]) -> None:
    """Write down that who claimed one of these could not be relied on from then on."""
    rows = arena.ask(
        "SELECT split_part(changed_by, ':', 2)::uuid, extract(epoch FROM created_at)::float8"
        " FROM runtime.transitions WHERE job_id = ANY (%s) AND change_action = 'claim'",
        list(culprits),
    )
    for worker, claimed_at in rows:
        arena.evidence.deaf_alone.setdefault(worker, []).append((claimed_at, time.time()))


def _all_hear(arena: Arena) -> bool:
    """Tell whether every worker's heart has beaten within a lease."""
    workers = arena.crew.worker_ids()
    beating = (
        "SELECT count(*) FROM runtime.workers WHERE id = ANY (%s) AND heartbeat_at > now() - make_interval(secs => %s)"
    )
    ((found,),) = arena.ask(beating, list(workers), LEASE_SECONDS / 2)
    return len(workers) == len(arena.crew.of("worker")) == int(found)


def _all(arena: Arena, jobs: Sequence[UUID], state: str) -> bool:
    return set(arena.states(jobs).values()) == {state}
