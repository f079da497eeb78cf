"""Jobs that wait: decisions at the same time as other decisions, deadlines and cancels, or without a leader."""

import time
from collections.abc import Sequence
from uuid import UUID

from tests.chaos.arena import Arena
from tests.chaos.faults import fault
from tests.support.proving.models import WaitingJob
from workers.runtime.store.claim import Ticket

JOBS = 60
WAITING = "SELECT id, version FROM proving.waiting_jobs WHERE id = ANY (%s) AND status = 'awaiting_approval'"
ENDED = "SELECT count(*) FROM proving.waiting_jobs WHERE id = ANY (%s) AND completed_at IS NOT NULL"
LEFT = """SELECT job_id, version_to, new_state, changed_by, change_action FROM runtime.transitions
           WHERE job_id = ANY (%s) AND old_state = 'awaiting_approval'"""
# Beat ends waits each minute; a busy machine is granted more.
MAX_EXPIRE_SECONDS = 150.0


@fault()
def decisions_raced(arena: Arena) -> None:
    """Three people, beat and a cancel try to end the same wait at the same time:

    it ends once, and every decision that was confirmed counts.
    """
    draw = arena.draw
    jobs = arena.workload.put(
        "proving.ask", [{"act": "wait_briefly", "seconds": draw.uniform(0.2, 2.0)} for _ in range(JOBS)]
    )
    won: list[tuple[UUID, int, str, str]] = []

    def all_ended() -> bool:
        pages: list[Ticket] = [page for page in arena.ask(WAITING, jobs) if draw.random() < 1 / 4]
        won.extend(arena.workload.race_decisions(pages, cancelled=pages[::5]))
        return arena.ask(ENDED, jobs) == [(JOBS,)]

    arena.wait(all_ended, "all waiting jobs have ended", seconds=arena.granted(60.0))
    left = arena.ask(LEFT, jobs)
    arena.promise(len({job for job, *_ in left}) == len(left), "a wait ended twice")
    decided = sorted((job, version, state, by) for job, version, state, by, action in left if action == "decide")
    arena.promise(set(won) <= set(decided), f"{len(set(won) - set(decided))} confirmed decisions are missing")
    arena.promise({row[4] for row in left} >= {"decide", "expire"}, "no decision or no expiry happened")


@fault()
def deadline_passes_with_beat_away(arena: Arena) -> None:
    """SIGSTOP of both beats while deadlines pass:

    no late decision counts, and beat ends the waits when it continues.
    """
    jobs = _waiting(arena, seconds=1.0)
    beats = [post.role for post in arena.crew.of("beat")]
    for role in beats:
        role.freeze()
    arena.rest(1.5)
    late = arena.workload.race_decisions(arena.ask(WAITING, jobs), beat=False)
    for role in beats:
        if role.alive:
            role.thaw()
    arena.promise(not late, f"{len(late)} decisions counted after their deadline")
    # Ask only once: this check must not wait for Postgres, because another fault may have stopped it.
    arena.check_later(
        "waits end once beat is back", lambda: arena.system.ask(ENDED, jobs) == [(JOBS,)], within=MAX_EXPIRE_SECONDS
    )


@fault()
def decided_while_nobody_leads(arena: Arena) -> None:
    """The leader dies while people decide, and no dispatcher receives the notification:

    the next leader finds the approved jobs by its poll.
    """
    jobs = _waiting(arena, seconds=300.0)
    pid = arena.system.leader_pid()
    for role in arena.crew.roles("dispatcher"):
        if role.pid == pid:
            role.kill()

    def all_decided() -> bool:
        pages = arena.ask(WAITING, jobs)
        arena.workload.race_decisions(pages, into=("approved",), beat=False)
        return not pages

    # If a person's connection was broken by an earlier fault, the person gets no answer and decides again.
    arena.wait(all_decided, "all are decided", seconds=arena.granted(10.0))
    decided_at = time.monotonic()
    arena.wait(lambda: arena.ask(ENDED, jobs) == [(JOBS,)], "the approved jobs are done", seconds=90.0)
    arena.promise_within(time.monotonic() - decided_at, 15.0, "jobs approved while nobody led are done")
    arena.await_crew()


def _waiting(arena: Arena, *, seconds: float) -> Sequence[UUID]:
    """Enqueue jobs that wait up to ``seconds`` for an approval; return them when they wait."""
    jobs = arena.workload.put("proving.ask", [{"act": "wait_briefly", "seconds": seconds}] * JOBS)
    states = list(WaitingJob.__lifecycle__.ready | WaitingJob.__lifecycle__.running)
    begun = "SELECT count(*) FROM proving.waiting_jobs WHERE id = ANY (%s) AND status <> ALL (%s)"
    arena.wait(lambda: arena.ask(begun, jobs, states) == [(JOBS,)], "all wait", seconds=arena.granted(30.0))
    return jobs
