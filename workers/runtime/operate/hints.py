"""Read what ``gristmill_done`` says. A notification is a hint: whoever gets it looks at the rows."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from uuid import UUID

CHANNEL = "gristmill_done"
# `runtime.tell_done` lists jobs up to 7,900 bytes. A payload above this length may have left some out.
COMPLETE_BYTES = 7_800


@dataclass(frozen=True, slots=True)
class Hint:
    """Jobs of one table that ended or began to wait. ``job_ids`` None: any job of that table may have."""

    table: str
    job_ids: AbstractSet[UUID] | None


def read_hint(payload: str) -> Hint | None:
    """Return what a payload says; None for one that is not ours: every login may send on every channel."""
    table, *listed = payload.split(" ")
    if not table:
        return None
    if not listed or len(payload.encode()) > COMPLETE_BYTES:
        return Hint(table, None)
    try:
        return Hint(table, {UUID(one.rpartition(":")[0]) for one in listed})
    except ValueError:
        return None
