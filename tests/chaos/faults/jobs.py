"""What callers do: cancels at every moment, one key with very many jobs, rows that no worker can read."""

from tests.chaos.arena import Arena
from tests.chaos.faults import fault
from tests.chaos.workload import score
from tests.support.poison import POISONS

CANCELLED = 60
NOISE = 1_000
OTHERS = 40
MAX_WAIT_SECONDS = 2.0
UNPOISONED, POISONED = 60, 5


@fault()
def cancel_raced(arena: Arena) -> None:
    """Jobs are cancelled during every step:

    each ends once; its worker learns of it within a second, and after that its run starts no call.
    """
    scored = [score(arena.draw, arena.workload.profiles)[1] for _ in range(CANCELLED)]
    jobs = [("scoring.score", job) for job in arena.workload.put("scoring.score", scored)]
    jobs += [("proving.plain", job) for job in arena.plain(CANCELLED, act="write", seconds=0.1)]
    two_steps = [{"act": "write", "seconds": 0.1}] * CANCELLED
    jobs += [("proving.first", job) for job in arena.workload.put("proving.first", two_steps)]
    arena.workload.cancel_later(jobs, within=1.5)
    arena.rest(2.0)


@fault()
def one_noisy_key(arena: Arena) -> None:
    """One limit key gets a thousand jobs: the 95th percentile of the other keys' waits stays below two seconds."""
    arena.workload.put("proving.keyed", [{"key": "noisy", "seconds": 0.02}] * NOISE)
    quiet = []
    for _ in range(OTHERS // 8):
        quiet += arena.workload.put("proving.keyed", [{"key": f"quiet{n}"} for n in range(8)])
        arena.rest(0.3)
    started = arena.wait(
        lambda: (found := arena.steps(quiet, "claim", since=0)) and len(found) == len(quiet) and found,
        "the other keys' jobs are claimed",
        seconds=60.0,
    )
    enqueued = arena.steps(quiet, "enqueue", since=0)
    waits = sorted(started[job] - enqueued[job] for job in quiet)
    arena.promise_within(
        waits[int(len(waits) * 0.95)], MAX_WAIT_SECONDS, "the 95th percentile of the other keys' waits"
    )


@fault()
def rows_poisoned(arena: Arena) -> None:
    """Rows hold JSON that no worker can read:

    each of these jobs fails alone, at once, with the reason; the other jobs complete.
    """
    kinds = [poison for poison in POISONS.values() if poison.column == "result"]
    others, poisoned = [], {}
    for _ in range(POISONED):
        others += arena.plain(UNPOISONED // POISONED, act="write", seconds=0.1)
        for poison in kinds:
            insert = f"INSERT INTO proving.plain_jobs (result) VALUES ({poison.value}) RETURNING id"
            ((job,),) = arena.ask(insert)
            poisoned[job] = poison.said
    jobs = [*others, *poisoned]
    ended = "SELECT count(*) FROM proving.plain_jobs WHERE id = ANY (%s) AND completed_at IS NOT NULL"
    arena.wait(
        lambda: arena.ask(ended, jobs) == [(len(jobs),)],
        "the unreadable jobs and the others end",
        seconds=arena.granted(60.0),
    )
    found = arena.ask(
        "SELECT id, error_message FROM proving.plain_jobs WHERE id = ANY (%s) AND status = 'failed'", jobs
    )
    arena.promise(dict(found) == poisoned, f"{len(found)} jobs failed, {len(poisoned)} rows were unreadable")
    attempts = arena.ask("SELECT DISTINCT retry_count FROM proving.plain_jobs WHERE id = ANY (%s)", list(poisoned))
    arena.promise(attempts == [(0,)], f"unreadable jobs spent attempts: {attempts}")
    effects = arena.ask("SELECT DISTINCT effects FROM proving.plain_jobs WHERE id = ANY (%s)", others)
    arena.promise(effects == [(1,)], f"the other jobs took effect {effects} times")
