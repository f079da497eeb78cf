"""Handlers that end their process: they use all memory, never yield, or crash the interpreter."""

import time
from collections.abc import Sequence
from uuid import UUID

from tests.chaos.arena import LEASE_SECONDS, Arena
from tests.chaos.faults import fault

RETRIES = 1
# Two attempts need a lease and a second each. The rest is for the start of new workers on a slow machine.
MAX_FAIL_SECONDS = 120.0


@fault(brief=False)
def handler_allocates_without_end(arena: Arena) -> None:
    """A handler takes all the memory that its process may use:

    its job fails after its attempts, and other jobs are not affected.
    """
    _run_harmful_job(arena, "hog")


@fault()
def handler_crashes_the_interpreter(arena: Arena) -> None:
    """A handler ends its process by a segmentation fault:

    its job fails after its attempts, and other jobs are not affected.
    """
    _run_harmful_job(arena, "crash")


@fault(brief=False)
def handler_never_yields(arena: Arena) -> None:
    """A handler blocks the event loop without end:

    its job fails after its attempts, and its process ends itself and is replaced.
    """
    _run_harmful_job(arena, "spin")


def _run_harmful_job(arena: Arena, act: str) -> None:
    """Enqueue one such job among normal jobs; return when it has failed and every post is filled again."""
    others = arena.plain(30, act="write", seconds=1.0)
    with arena.crew.may_die("worker", at_most=1 + RETRIES):
        harmful = arena.plain(1, act=act, max_retries=RETRIES)
        arena.wait(
            lambda: _all_in_state(arena, harmful, "failed"),
            f"the job that does {act!r} fails",
            seconds=MAX_FAIL_SECONDS,
        )
        arena.wait(
            lambda: _all_in_state(arena, others, "completed"), "the other jobs complete", seconds=MAX_FAIL_SECONDS
        )
        # The job may have failed on another worker, while the first process that it damaged has not ended yet.
        arena.wait(lambda: _all_alive(arena), "every worker shows signs of life", seconds=MAX_FAIL_SECONDS)
        arena.await_crew()
    _record_isolation(arena, harmful)
    effects = arena.ask("SELECT DISTINCT effects FROM proving.plain_jobs WHERE id = ANY (%s)", others)
    arena.promise(effects == [(1,)], f"the other jobs took effect {effects} times")


def _record_isolation(arena: Arena, harmful: Sequence[UUID]) -> None:
    """Record each worker that claimed one of these jobs as isolated, from the claim until now."""
    rows = arena.ask(
        "SELECT split_part(changed_by, ':', 2)::uuid, extract(epoch FROM created_at)::float8"
        " FROM runtime.transitions WHERE job_id = ANY (%s) AND change_action = 'claim'",
        list(harmful),
    )
    for worker, claimed_at in rows:
        arena.evidence.isolated_workers.setdefault(worker, []).append((claimed_at, time.time()))


def _all_alive(arena: Arena) -> bool:
    """Return whether every worker has sent a heartbeat within half a lease."""
    workers = arena.crew.worker_ids()
    beating = (
        "SELECT count(*) FROM runtime.workers WHERE id = ANY (%s) AND heartbeat_at > now() - make_interval(secs => %s)"
    )
    ((found,),) = arena.ask(beating, list(workers), LEASE_SECONDS / 2)
    return len(workers) == len(arena.crew.of("worker")) == int(found)


def _all_in_state(arena: Arena, jobs: Sequence[UUID], state: str) -> bool:
    return set(arena.states(jobs).values()) == {state}
