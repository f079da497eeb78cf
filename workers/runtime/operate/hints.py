"""Read notifications on ``gristmill_done``. A notification is a hint: the receiver reads the rows."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from uuid import UUID

CHANNEL = "gristmill_done"
# `runtime.tell_done` lists jobs up to 7,900 bytes. A payload above this length may have left some out.
COMPLETE_BYTES = 7_800


@dataclass(frozen=True, slots=True)
class Hint:
    """Jobs of one table that ended or began to wait. If ``job_ids`` is None, it may be any job of the table."""

    table: str
    job_ids: AbstractSet[UUID] | None


def read_hint(payload: str) -> Hint | None:
    """Return the hint of a payload; None if it is not ours, because every login may send on every channel."""
    table, *listed = payload.split(" ")
    if not table:
        return None
    if not listed or len(payload.encode()) > COMPLETE_BYTES:
        return Hint(table, None)
    try:
        return Hint(table, {UUID(one.rpartition(":")[0]) for one in listed})
    except ValueError:
        return None
