"""The states that a person may name: each table's own, in any case, and the groups that every table has."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from workers.runtime.database import Raw
from workers.runtime.refusals import Problem, Refusal, quoted

# By the place that a lifecycle gives them: what waits for a worker, what runs, and the three ends.
GROUPS = ("waiting", "running", "completed", "failed", "cancelled")
# Words for the same: what waits is ready; whatever has ended has ended.
ALSO = {"ready": ("waiting",), "ended": ("completed", "failed", "cancelled"), "open": ("waiting", "running")}

TableState = tuple[str, str]


class UnknownStateError(Refusal, ValueError):
    """No table has such a state and no group is named so; the message is one line with the known names."""


@dataclass(frozen=True, slots=True)
class TableStates:
    """The states of one job table by group, as its lifecycle in the database says."""

    table: str
    waiting: Sequence[str]
    running: Sequence[str]
    completed: str
    failed: str
    cancelled: str

    def group(self, name: str) -> list[str]:
        """Return this table's states of one group."""
        states = getattr(self, name)
        return [states] if isinstance(states, str) else list(states)

    def all(self) -> list[str]:
        return [state for group in GROUPS for state in self.group(group)]


async def table_states(conn: Raw) -> list[TableStates]:
    """Return what every job table's states are, those of a newer release's tables too."""
    cursor = await conn.execute(
        # A lifecycle's terminal states stand in this order, from the first release on.
        """SELECT l.table_name, array_agg(s.ready::text ORDER BY s.name), array_agg(s.running::text ORDER BY s.name),
                  l.terminal[1], l.terminal[2], l.terminal[3]
             FROM runtime.lifecycles AS l JOIN runtime.stages AS s USING (table_name)
            GROUP BY l.table_name, l.terminal ORDER BY l.table_name"""
    )
    return [TableStates(*row) for row in await cursor.fetchall()]


async def states_named(conn: Raw, name: str) -> list[TableState]:
    """Return every (table, state) that ``name`` means, in any case; raise UnknownStateError with the known names."""
    return meant(await table_states(conn), name)


def meant(tables: Iterable[TableStates], name: str) -> list[TableState]:
    """Return every (table, state) that ``name`` means: a group's, and those of that very name. Pure."""
    tables = list(tables)
    wanted = name.strip().casefold()
    groups = ALSO.get(wanted, (wanted,) if wanted in GROUPS else ())
    found = [
        (table.table, state)
        for table in tables
        for state in dict.fromkeys(table.all())
        if state.casefold() == wanted or any(state in table.group(group) for group in groups)
    ]
    if not found:
        own = sorted({state.casefold() for table in tables for state in table.all()} - set(GROUPS) - set(ALSO))
        known = ", ".join((*GROUPS, *ALSO, *own))
        raise UnknownStateError(Problem("status", f"must be one of {known}", quoted(name)))
    return found
