"""Named places between two steps where a test can end this process suddenly, like a power cut.

``GRISTMILL_FAILPOINTS=claim.after`` ends the process the first time it arrives there, ``claim.after:3`` the third time;
separate several with commas. Only tests set it. If it is not set, :data:`failpoint` does nothing and costs one call.
"""

import os
import sys
from collections.abc import Callable, Mapping
from threading import Lock
from typing import Literal, get_args

VARIABLE = "GRISTMILL_FAILPOINTS"
EXIT_CODE = 97

Point = Literal[
    # The INSERT of a caller, before its commit; the commit of a Celery message's job.
    "enqueue.before",
    "enqueue.after",
    "enqueue_commit.before",
    "enqueue_commit.after",
    # The leader: pick and mark (one statement), each batch's publishing, the rescue of one stage's lost runs.
    "dispatch.before",
    "dispatch.after",
    "publish.before",
    "publish.after",
    "rescue.before",
    "rescue.after",
    # The leader: one batch of notices goes to its takers, one batch of changes is added to the counts.
    "notices.before",
    "notices.after",
    "fold.before",
    "fold.after",
    # The end of a wait: a decision, before its commit; one batch of expiries, after its commit.
    "decide.before",
    "decide.after",
    "expire.before",
    "expire.after",
    # A message in a worker: its acknowledgement, the carrier task, the claim of its batch.
    "ack.before",
    "ack.after",
    "carrier.before",
    "carrier.after",
    "claim.before",
    "claim.after",
    # One call of a provider, from the first byte of the request to the last of the answer.
    "provider.before",
    "provider.after",
    # One statement that admits calls, and one that settles them in the ledger.
    "admit.before",
    "admit.after",
    "account.before",
    "account.after",
    # The batch lane: questions are kept; a batch gets its lines, is uploaded, created; its answers are kept; its jobs
    # are woken.
    "batch_ask.before",
    "batch_ask.after",
    "batch_gather.before",
    "batch_gather.after",
    "batch_upload.before",
    "batch_upload.after",
    "batch_create.before",
    "batch_create.after",
    "batch_take.before",
    "batch_take.after",
    "batch_wake.before",
    "batch_wake.after",
    # A flush of outcomes: the guarded update, each handler's write, the commit of both.
    "settle.before",
    "settle.after",
    "write.before",
    "write.after",
    "commit.before",
    "commit.after",
    # A checkpoint of a long run: before its transaction, after the commit.
    "checkpoint.before",
    "checkpoint.after",
    "heartbeat.before",
    "heartbeat.after",
    # Maintenance and beat: one batch's delete; the commit of a tick, before its actions are published.
    "prune.before",
    "prune.after",
    "tick.before",
    "tick.after",
]
POINTS: tuple[Point, ...] = get_args(Point)


def parse(text: str) -> dict[str, int]:
    """Return at which arrival each point named in ``text`` ends the process; raise ValueError for anything else."""
    armed: dict[str, int] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        name, colon, nth = entry.partition(":")
        if name not in POINTS:
            raise ValueError(f"{VARIABLE} names failpoints, got {name!r}; known failpoints: {', '.join(POINTS)}")
        if colon and not (nth.isdecimal() and int(nth) > 0):
            raise ValueError(f"{VARIABLE} counts arrivals from 1, got {entry!r}")
        armed[name] = int(nth) if colon else 1
    return armed


def _nowhere(_point: Point, /) -> None:
    """Do nothing."""


def _armed(at: Mapping[str, int]) -> Callable[[Point], None]:
    """Return a function that counts the arrivals at the points of ``at``, in any thread, and ends the process."""
    left = dict(at)
    lock = Lock()

    def die_when_due(point: Point, /) -> None:
        if point not in left:
            return
        with lock:
            left[point] -= 1
            if left[point] == 0:
                os.write(2, f"failpoint {point} reached\n".encode())
                os._exit(EXIT_CODE)  # nothing is flushed, closed, rolled back or handed over

    return die_when_due


def _from_environment() -> Callable[[Point], None]:
    try:
        armed = parse(os.environ.get(VARIABLE, ""))
    except ValueError as error:
        sys.exit(str(error))  # one line, and no role runs
    return _armed(armed) if armed else _nowhere


# Chosen once, here: if nothing is armed, a call costs almost nothing.
failpoint: Callable[[Point], None] = _from_environment()
