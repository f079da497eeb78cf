"""The states that a person may name: each table's own, in any case, and the groups that every table has."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from workers.runtime.database import Raw
from workers.runtime.refusals import Refusal, quoted

# By the place that a lifecycle gives them: jobs that wait for a worker or for a decision, jobs that run, and jobs that
# ended. A good end of a domain is found with the completed ones, a bad one with the failed, a neutral one with the
# cancelled.
GROUPS = ("waiting", "running", "completed", "failed", "cancelled")
# Further words: only those that wait for a worker; all that ended; all that did not.
ALSO = {"ready": ("ready",), "ended": ("completed", "failed", "cancelled"), "open": ("waiting", "running")}
_KINDS = {"completed": "good", "failed": "bad", "cancelled": "neutral"}

TableState = tuple[str, str]


class UnknownStateError(Refusal, ValueError):
    """No table has such a state and no group is named so; the message is one line with the known names."""


@dataclass(frozen=True, slots=True)
class TableStates:
    """The states of one job table, as its lifecycle in the database says.

    ``waits`` are those in which nobody works; ``ends`` says of each end beside the three whether it is good, bad or
    neutral; ``shown_as`` has the public names of states.
    """

    table: str
    ready: Sequence[str]
    running: Sequence[str]
    completed: str
    failed: str
    cancelled: str
    waits: Sequence[str] = ()
    ends: Mapping[str, str] = field(default_factory=dict)
    shown_as: Mapping[str, str] = field(default_factory=dict)

    def group(self, name: str) -> list[str]:
        """Return this table's states of one group."""
        match name:
            case "waiting":
                return [*self.ready, *self.waits]
            case "ready" | "running":
                return list(getattr(self, name))
        return [getattr(self, name), *(end for end, kind in self.ends.items() if kind == _KINDS[name])]

    def is_named(self, state: str, wanted: str) -> bool:
        """Tell whether ``wanted`` is the name of ``state`` or its public name, in any case."""
        return wanted in {state.casefold(), self.shown(state).casefold()}

    def shown(self, state: str) -> str:
        return self.shown_as.get(state, state)

    def all(self) -> list[str]:
        return [state for group in GROUPS for state in self.group(group)]


async def table_states(conn: Raw) -> list[TableStates]:
    """Return what every job table's states are, those of a newer release's tables too."""
    cursor = await conn.execute(
        # A lifecycle's terminal states stand in this order, from the first release on.
        """SELECT l.table_name, array_agg(s.ready::text ORDER BY s.name), array_agg(s.running::text ORDER BY s.name),
                  l.terminal[1], l.terminal[2], l.terminal[3],
                  array(SELECT jsonb_object_keys(l.waits) ORDER BY 1), l.ends, l.shown_as
             FROM runtime.lifecycles AS l JOIN runtime.stages AS s USING (table_name)
            GROUP BY l.table_name ORDER BY l.table_name"""
    )
    return [TableStates(*row) for row in await cursor.fetchall()]


async def states_named(conn: Raw, name: str) -> list[TableState]:
    """Return every (table, state) that ``name`` means, in any case; raise UnknownStateError with the known names."""
    return meant(await table_states(conn), name)


def meant(tables: Iterable[TableStates], name: str) -> list[TableState]:
    """Return every (table, state) that ``name`` means: a group's, and those of that name or public name. Pure."""
    tables = list(tables)
    wanted = name.strip().casefold()
    groups = ALSO.get(wanted, (wanted,) if wanted in GROUPS else ())
    found = [
        (table.table, state)
        for table in tables
        for state in dict.fromkeys(table.all())
        if table.is_named(state, wanted) or any(state in table.group(group) for group in groups)
    ]
    if not found:
        names = {name.casefold() for table in tables for state in table.all() for name in (state, table.shown(state))}
        own = sorted(names - set(GROUPS) - set(ALSO))
        known = ", ".join((*GROUPS, *ALSO, *own))
        raise UnknownStateError(f"status must be one of {known}, got {quoted(name)}")
    return found
