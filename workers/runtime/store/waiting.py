"""What ends a wait: the predicate and the columns that a decision and an expiry share.

Both are one UPDATE that repeats this predicate on the locked row. They look at the same clock from two sides of the
deadline, so exactly one of two decisions, or of a decision and the expiry, wins.
"""

from typing import Literal

from workers.runtime.store.tables import JobTable

# How the deadline of a wait is written for people.
AS_TEXT = "to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS \"UTC\"')"


def deadline_of(t: JobTable) -> str:
    """Return the column that holds the deadline of a wait; raise LookupError for a table without waits."""
    if t.lifecycle.deadline is None:
        raise LookupError(f"no job of {t.label} waits for a decision")
    return t.column[t.lifecycle.deadline]


def in_list(states: frozenset[str]) -> str:
    """Return ``states`` as SQL lists them."""
    return ", ".join(f"'{state}'" for state in sorted(states))


def still_waits(t: JobTable, *, deadline: Literal["ahead", "passed"]) -> str:
    """Return the condition under which row ``j`` is still in a wait, on the given side of its deadline.

    Asked of the clock and not of the transaction's start: a statement that waited for the row asks again.
    """
    side = ">" if deadline == "ahead" else "<="
    waits = in_list(t.lifecycle.waiting)
    return (
        f"CASE WHEN j.{t.column['status']} IN ({waits}) THEN true END AND j.{deadline_of(t)} {side} clock_timestamp()"
    )


def leave(t: JobTable, *, into: str, until: str) -> str:
    """Return what is set on row ``j`` as it leaves its wait for the state ``into``: assignments, both SQL expressions.

    ``until`` is the deadline of a further wait, if it leads to one.
    """
    c, cycle = t.column, t.lifecycle
    ends = f"{into} IN ({in_list(cycle.terminal)})"
    return f"""
        {c["status"]} = ({into})::{t.status_type}, {c["version"]} = j.{c["version"]} + 1,
        {c["completed_at"]} = CASE WHEN {ends} THEN now() END, {c["updated_at"]} = now(),
        {c["progress"]} = CASE WHEN {ends} THEN {t.progress_at_end} ELSE 0 END,
        {deadline_of(t)} = CASE WHEN {into} IN ({in_list(cycle.waiting)}) THEN {until} END"""
