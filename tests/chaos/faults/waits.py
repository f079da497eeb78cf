"""What happens to jobs that wait: decisions against decisions, deadlines and cancels, and nobody there to hear."""

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
EXPIRED_WITHIN = 150.0


@fault()
def decisions_raced(arena: Arena) -> None:
    """Three people, beat and a cancel race for each wait: it ends once, and who was told that he decided did."""
    draw = arena.draw
    jobs = arena.workload.put(
        "proving.ask", [{"act": "wait_briefly", "seconds": draw.uniform(0.2, 2.0)} for _ in range(JOBS)]
    )
    won: list[tuple[UUID, int, str, str]] = []

    def all_ended() -> bool:
        pages: list[Ticket] = [page for page in arena.ask(WAITING, jobs) if draw.random() < 1 / 4]
        won.extend(arena.workload.race_decisions(pages, cancelled=pages[::5]))
        return arena.ask(ENDED, jobs) == [(JOBS,)]

    arena.wait(all_ended, "all that waited have ended", seconds=arena.granted(60.0))
    left = arena.ask(LEFT, jobs)
    arena.promise(len({job for job, *_ in left}) == len(left), "a wait ended twice")
    decided = sorted((job, version, state, by) for job, version, state, by, action in left if action == "decide")
    arena.promise(set(won) <= set(decided), f"{len(set(won) - set(decided))} acknowledged decisions are not there")
    arena.promise({row[4] for row in left} >= {"decide", "expire"}, "nothing raced")


@fault()
def deadline_passes_with_beat_away(arena: Arena) -> None:
    """SIGSTOP of both beats as deadlines pass: no late decision counts, and beat ends the waits once it is back."""
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
    # Asked once: a later look must not wait for a Postgres that another fault has taken away.
    arena.soon("waits end once beat is back", lambda: arena.system.ask(ENDED, jobs) == [(JOBS,)], within=EXPIRED_WITHIN)


@fault()
def decided_while_nobody_leads(arena: Arena) -> None:
    """The leader dies as people decide, and nobody hears the bell: the next one finds what was approved by its poll."""
    jobs = _waiting(arena, seconds=300.0)
    pid = arena.system.leader_pid()
    for role in arena.crew.roles("dispatcher"):
        if role.pid == pid:
            role.kill()

    def all_decided() -> bool:
        pages = arena.ask(WAITING, jobs)
        arena.workload.race_decisions(pages, into=("approved",), beat=False)
        return not pages

    # A person whose connection had broken with an earlier fault gets no answer, and decides again.
    arena.wait(all_decided, "all are decided", seconds=arena.granted(10.0))
    decided_at = time.monotonic()
    arena.wait(lambda: arena.ask(ENDED, jobs) == [(JOBS,)], "what was approved is done", seconds=90.0)
    arena.promise_within(time.monotonic() - decided_at, 15.0, "what was approved while nobody led")
    arena.await_crew()


def _waiting(arena: Arena, *, seconds: float) -> Sequence[UUID]:
    """Return jobs that wait for an approval for so long."""
    jobs = arena.workload.put("proving.ask", [{"act": "wait_briefly", "seconds": seconds}] * JOBS)
    states = list(WaitingJob.__lifecycle__.ready | WaitingJob.__lifecycle__.running)
    begun = "SELECT count(*) FROM proving.waiting_jobs WHERE id = ANY (%s) AND status <> ALL (%s)"
    arena.wait(lambda: arena.ask(begun, jobs, states) == [(JOBS,)], "all wait", seconds=arena.granted(30.0))
    return jobs
