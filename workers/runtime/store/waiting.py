"""The end of a wait: the predicate and the assignments that a decision and an expiry share.

Both are one UPDATE that repeats this predicate on the locked row. A decision counts before the deadline, an expiry
after it, by the same clock. So of two decisions, or of a decision and the expiry, exactly one wins.
"""

from collections.abc import Iterable
from typing import Literal

from workers.runtime.store.tables import JobTable

# The deadline of a wait, as people read it.
AS_TEXT = "to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS \"UTC\"')"


def deadline_of(t: JobTable) -> str:
    """Return the column that holds the deadline of a wait; raise LookupError for a table without waits."""
    if t.lifecycle.deadline is None:
        raise LookupError(f"no job of {t.label} waits for a decision")
    return t.column[t.lifecycle.deadline]


def in_list(states: Iterable[str]) -> str:
    """Return ``states`` as the list of a SQL ``IN``."""
    return ", ".join(f"'{state}'" for state in sorted(states))


def still_waits(t: JobTable, *, deadline: Literal["ahead", "passed"]) -> str:
    """Return the condition under which row ``j`` is still in a wait, on the given side of its deadline.

    It reads the clock, not the start of the transaction: a statement that waited for the row evaluates it again.
    """
    side = ">" if deadline == "ahead" else "<="
    waits = in_list(t.lifecycle.waiting)
    return (
        f"CASE WHEN j.{t.column['status']} IN ({waits}) THEN true END AND j.{deadline_of(t)} {side} clock_timestamp()"
    )


def leave(t: JobTable, *, into: str, until: str) -> str:
    """Return the assignments to row ``j`` when it leaves its wait for the state ``into``.

    ``into`` and ``until`` are SQL expressions; ``until`` is the deadline if the new state is a wait again.
    """
    c, cycle = t.column, t.lifecycle
    ends = f"{into} IN ({in_list(cycle.terminal)})"
    return f"""
        {c["status"]} = ({into})::{t.status_type}, {c["version"]} = j.{c["version"]} + 1,
        {c["completed_at"]} = CASE WHEN {ends} THEN now() END, {c["updated_at"]} = now(),
        {c["progress"]} = CASE WHEN {ends} THEN {t.progress_at_end} ELSE 0 END,
        {deadline_of(t)} = CASE WHEN {into} IN ({in_list(cycle.waiting)}) THEN {until} END"""
