"""The states that a person may name: those of each table, in upper or lower case, and the groups of all tables."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from models.lifecycle import Lifecycle
from workers.runtime.database import Raw
from workers.runtime.refusals import Problem, Refusal, quoted

# Groups of states: jobs that wait for a worker or for a decision, jobs that run, and three groups of jobs that ended.
# A good end of a domain belongs to the completed jobs, a bad one to the failed, a neutral one to the cancelled.
GROUPS = ("waiting", "running", "completed", "failed", "cancelled")
# More groups: jobs that wait for a worker; all jobs that ended; all jobs that did not.
FURTHER_GROUPS = {"ready": ("ready",), "ended": ("completed", "failed", "cancelled"), "open": ("waiting", "running")}
_KINDS = {"completed": "good", "failed": "bad", "cancelled": "neutral"}

TableState = tuple[str, str]


class UnknownStateError(Refusal, ValueError):
    """No table has this state and no group has this name. The message is one line with the known names."""


@dataclass(frozen=True, slots=True)
class TableStates:
    """The states of one job table, from its lifecycle in the database.

    In the states of ``waits`` nobody works. ``ends`` maps each further terminal state to good, bad or neutral.
    ``shown_as`` has the public names of states.
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
        """Tell whether ``wanted`` (case-folded) is the name of ``state`` or its public name."""
        return wanted in {state.casefold(), self.public_name(state).casefold()}

    def public_name(self, state: str) -> str:
        return self.shown_as.get(state, state)

    def all(self) -> list[str]:
        return [state for group in GROUPS for state in self.group(group)]


def declared_states(table: str, cycle: Lifecycle) -> TableStates:
    """Return the states of a table as its model declares them: also for those who may not read the database's."""
    return TableStates(
        table=table,
        ready=[step.ready for step in cycle.steps],
        running=[step.running for step in cycle.steps],
        completed=cycle.completed,
        failed=cycle.failed,
        cancelled=cycle.cancelled,
        waits=[wait.state for wait in cycle.waits],
        ends={end.state: end.counts_as for end in cycle.ends},
        shown_as=cycle.shown_as,
    )


async def table_states(conn: Raw) -> list[TableStates]:
    """Return the states of every job table, also of tables that a newer release added."""
    cursor = await conn.execute(
        # The first three terminal states of a lifecycle have this order since the first release.
        """SELECT l.table_name, array_agg(s.ready::text ORDER BY s.name), array_agg(s.running::text ORDER BY s.name),
                  l.terminal[1], l.terminal[2], l.terminal[3],
                  array(SELECT jsonb_object_keys(l.waits) ORDER BY 1), l.ends, l.shown_as
             FROM runtime.lifecycles AS l JOIN runtime.stages AS s USING (table_name)
            GROUP BY l.table_name ORDER BY l.table_name"""
    )
    return [TableStates(*row) for row in await cursor.fetchall()]


async def find_states(conn: Raw, name: str) -> list[TableState]:
    """Return every (table, state) that ``name`` means; raise UnknownStateError with the known names."""
    return match_states(await table_states(conn), name)


def match_states(tables: Iterable[TableStates], name: str) -> list[TableState]:
    """Return every (table, state) that ``name`` means: a group, a state or a public name. Pure.

    Upper and lower case are the same.
    """
    tables = list(tables)
    wanted = name.strip().casefold()
    groups = FURTHER_GROUPS.get(wanted, (wanted,) if wanted in GROUPS else ())
    found = [
        (table.table, state)
        for table in tables
        for state in dict.fromkeys(table.all())
        if table.is_named(state, wanted) or any(state in table.group(group) for group in groups)
    ]
    if not found:
        names = {
            name.casefold() for table in tables for state in table.all() for name in (state, table.public_name(state))
        }
        own = sorted(names - set(GROUPS) - set(FURTHER_GROUPS))
        known = ", ".join((*GROUPS, *FURTHER_GROUPS, *own))
        raise UnknownStateError(Problem("status", f"must be one of {known}", quoted(name)))
    return found
