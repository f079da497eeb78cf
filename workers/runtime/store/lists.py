"""Find the jobs that a person or a client lists: newest first, along indexes, never a whole table. Only reads.

A search is a set of walks, each down one index, merged by id. The ids of jobs grow with the time of their enqueue, so
a page stays where it is while jobs are added. What a walk does not find by its index it checks row by row; after
:data:`MAX_READ` rows it stops, and the next page goes on there.

The planner must not choose: with wrong statistics it takes the primary key, which has every order that a list asks for.
So each walk asks for an order that only its own index has (the compared columns, as ranges of one value, then the id).
"""

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from workers.runtime.database import Raw
from workers.runtime.store.read import JobView, like_pattern
from workers.runtime.store.states import TableState
from workers.runtime.store.tables import JobTable
from workers.runtime.store.waiting import in_list

# A page reads at most this many rows of each walk. Rows that do not match are few milliseconds' work up to here.
MAX_READ = 5_000

Wait = Literal["ready", "dispatched", "backing_off", "snoozed", "later", "decision"]
WAITS: tuple[Wait, ...] = ("ready", "dispatched", "backing_off", "snoozed", "later", "decision")

FIRST_ID, LAST_ID = UUID(int=0), UUID(int=2**128 - 1)
_JOB = [field.name for field in fields(JobView)]
# Every scan is along an index; a sort is for what has no order.
_ALONG_INDEXES = {"enable_seqscan": "off", "enable_bitmapscan": "off", "enable_sort": "off", "jit": "off"}
_PLANNER = ", ".join(
    f"set_config('{name}', '{value}', true)"
    for name, value in {**_ALONG_INDEXES, "plan_cache_mode": "force_custom_plan"}.items()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSearch:
    """Which jobs to list: those that match every part that is set.

    ``states`` are states of tables. ``owner`` is the user to whom the jobs belong. ``error`` is a fingerprint.
    ``since`` and ``until`` (not included) are times of the enqueue, as the id has them. ``members`` are values of
    columns that a stage declares as searchable. ``older_than`` and ``error_text`` have no index: they are for
    operators, who wait.
    """

    stage: str | None = None
    states: AbstractSet[TableState] | None = None
    wait: Wait | None = None
    owner: UUID | None = None
    key: str | None = None
    error: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    members: Mapping[str, Any] = field(default_factory=dict)
    older_than: timedelta | None = None
    error_text: str | None = None


@dataclass(frozen=True, slots=True)
class Viewer:
    """Whom row level security lets read: a trusted role everything, a tenant what is its own, nobody nothing."""

    is_trusted: bool
    actor_id: UUID | None


@dataclass(frozen=True, slots=True)
class Slice:
    """Jobs in the order of the list. ``goes_on_after`` is the last id that was looked at; None at the end."""

    jobs: Sequence[JobView]
    goes_on_after: UUID | None


@dataclass(frozen=True, slots=True)
class Walk:
    """One part of a search: the rows of ``table`` that match ``along``, by ``order``.

    ``also`` is checked row by row. Without an ``order`` the rows are few at any time and are sorted by id.
    """

    table: JobTable
    along: Sequence[str]
    order: Sequence[str] = ()
    also: Sequence[str] = ()


async def prepare_search(conn: Raw) -> Viewer:
    """Keep the planner to indexes until the transaction ends; return whom it serves."""
    cursor = await conn.execute(
        f"""SELECT trusted.it_is, CASE WHEN NOT trusted.it_is THEN runtime.actor_id() END, {_PLANNER}
              FROM (SELECT runtime.is_trusted() AS it_is) AS trusted"""
    )
    row = await cursor.fetchone()
    assert row is not None
    return Viewer(row[0], row[1])


async def read_slice(
    conn: Raw, walks: Sequence[Walk], search: JobSearch, *, limit: int, before: UUID, reads: int = MAX_READ
) -> Slice:
    """Return up to ``limit`` jobs with ids below ``before``, newest first; fewer if ``reads`` rows were read."""
    if not walks:
        return Slice([], None)
    # One more row tells that there are more, another one stands for a job of another table with the last id.
    values = search_values(search, before=before) | {"limit": limit + 2, "reads": reads}
    cursor = await conn.execute(page_sql(walks).encode(), values)
    return cut_page(await cursor.fetchall(), limit=limit, reads=reads)


async def count_matching(
    conn: Raw, walks: Sequence[Walk], search: JobSearch, *, at_most: int, reads: int = MAX_READ
) -> tuple[int, bool]:
    """Return how many jobs match, at most ``at_most``, and whether there are or may be more."""
    if not walks:
        return 0, False
    values = search_values(search) | {"limit": at_most + 1, "reads": reads}
    cursor = await conn.execute(
        f"""SELECT count(*) FILTER (WHERE fits)::int, coalesce(bool_or(nth = %(reads)s), false)
              FROM ({_union(walks)}) AS found""".encode(),
        values,
    )
    row = await cursor.fetchone()
    assert row is not None
    count, is_cut = row
    return min(count, at_most), is_cut or count > at_most


def cut_page(rows: Sequence[tuple[Any, ...]], *, limit: int, reads: int) -> Slice:
    """Return the jobs of the page that ``rows`` (id, fits, nth, job …) begin, newest first. Pure.

    A walk ends at its row number ``reads``: whatever it would find comes after that row, so the page ends there. Jobs
    of two tables with one id stay on one page.
    """
    jobs: list[JobView] = []
    for job_id, fits, nth, *values in rows:
        if len(jobs) >= limit and jobs[-1].id != job_id:
            return Slice(jobs, jobs[-1].id)
        if fits and values[0] is not None:
            jobs.append(JobView(**dict(zip(_JOB, values, strict=True))))
        if nth == reads:
            return Slice(jobs, job_id)
    return Slice(jobs, None)


# ── walks ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def plan_walks(
    tables: Sequence[JobTable], search: JobSearch, *, searchable: Mapping[str, AbstractSet[str]]
) -> list[Walk]:
    """Return the walks that find what ``search`` means. Pure.

    ``searchable`` has the searchable columns of each table, by its label: other tables have no such jobs.
    """
    walks: list[Walk] = []
    for t in tables:
        states = _wanted_states(t, search)
        if states is not None and not states:
            continue
        if search.members.keys() - searchable.get(t.label, frozenset()):
            continue
        walks += _walks_of(t, search, states)
    return walks


def _wanted_states(t: JobTable, search: JobSearch) -> list[str] | None:
    """Return the states of this table in which a job may match; None if it may be any."""
    cycle = t.lifecycle
    found: set[str] | None = None
    if search.stage is not None:
        step = next((step for step in cycle.steps if step.stage == search.stage), None)
        if step is None:
            return []
        if len(cycle.steps) > 1:
            found = {*cycle.states_of(step), *cycle.terminal}
    if search.states is not None:
        named = {state for label, state in search.states if label == t.label}
        found = named if found is None else found & named
    if search.wait is not None:
        waits = cycle.waiting if search.wait == "decision" else cycle.ready
        found = set(waits) if found is None else found & waits
    return None if found is None else sorted(found)


def _walks_of(t: JobTable, search: JobSearch, states: Sequence[str] | None) -> Iterator[Walk]:
    c = t.column
    rest = _conditions(t, search)
    in_states = [] if states is None else [f"{c['status']} IN ({in_list(states)})"]
    if search.key is not None:
        yield Walk(t, [f"{c['idempotency_key']} = %(key)s", *_owner(t, search), *in_states, *rest])
    elif search.error is not None:
        yield _errors(t, search, [*in_states, *rest])
    elif search.owner is not None:
        yield from _owned(t, search, states, rest)
    elif search.members:
        name = min(search.members)
        along, order = _one_value(c[name], f"%(member_{name})s")
        yield Walk(t, [along, _free(t)], [order], [*in_states, *rest])
        yield from _in_flight(t, search, states or sorted(t.lifecycle.states), rest)
    elif states is None:
        yield Walk(t, ["true"], [f"{c['id']} DESC"], rest)
    else:
        yield from _in_states(t, search, states, rest)


def _errors(t: JobTable, search: JobSearch, rest: Sequence[str]) -> Walk:
    """Return the walk along the jobs with one fingerprint: of one owner or of all, each by its own index."""
    c = t.column
    along, order = _one_value(c["error_fingerprint"], "%(error)s")
    of_all = [] if search.owner is not None else [f"{c['error_message']} IS NOT NULL"]
    return Walk(t, [along, *_owner(t, search), *of_all], [order], rest)


def _owned(t: JobTable, search: JobSearch, states: Sequence[str] | None, rest: Sequence[str]) -> Iterator[Walk]:
    """Yield the walks along the jobs of one owner, state by state, and along those in flight."""
    c = t.column
    wanted = sorted(t.lifecycle.states) if states is None else states
    if search.wait != "dispatched":
        if "status" in t.enums:
            along, order = _one_value(c["owner_id"], "%(owner)s::uuid")
            also = [f"{c['status']} IN ({in_list(wanted)})", *rest]
            yield Walk(t, [along, f"{c['owner_id']} IS NOT NULL", _free(t)], [order], also)
        else:
            for state in wanted:
                along, order = _one_value(c["status"], f"'{state}'")
                yield Walk(t, [*_owner(t, search), along, _free(t)], [order], rest)
    yield from _in_flight(t, search, wanted, [*_owner(t, search), *rest])


def _in_states(t: JobTable, search: JobSearch, states: Sequence[str], rest: Sequence[str]) -> Iterator[Walk]:
    """Yield the walks along the jobs of every owner, state by state: those due now or later, and those in flight."""
    c = t.column
    for state in states if search.wait != "dispatched" else ():
        along, order = _one_value(c["status"], f"'{state}'")
        if search.wait not in {"backing_off", "snoozed", "later"}:
            yield Walk(t, [along, f"{c['due_at']} IS NULL", _free(t)], [order], rest)
        if search.wait != "decision":
            yield Walk(t, [along, f"{c['due_at']} IS NOT NULL", _free(t)], [order], rest)
    yield from _in_flight(t, search, states, rest)


def _in_flight(t: JobTable, search: JobSearch, states: Sequence[str], rest: Sequence[str]) -> Iterator[Walk]:
    c = t.column
    flying = sorted({*states} & (t.lifecycle.ready | t.lifecycle.running))
    if flying and search.wait in {None, "dispatched"}:
        is_flying = f"{c['dispatched_at']} IS NOT NULL AND {c['completed_at']} IS NULL"
        yield Walk(t, [is_flying, f"{c['status']} IN ({in_list(flying)})", *rest])


def _conditions(t: JobTable, search: JobSearch) -> list[str]:
    """Return the conditions that every walk checks row by row."""
    c = t.column
    found = []
    if search.stage is not None and len(t.lifecycle.steps) > 1:
        found.append(_belongs_to(t, search.stage))
    if search.wait is not None:
        found += _waits_like(t, search.wait)
    found += [f"{c[name]} = %(member_{name})s" for name in sorted(search.members)]
    if search.older_than is not None:
        found.append(f"{c['created_at']} < now() - %(older_than)s")
    if search.error_text is not None:
        found.append(f"lower({c['error_message']}) LIKE lower(%(error_text)s)")
    return found


def _belongs_to(t: JobTable, stage: str) -> str:
    """Return the condition that a job belongs to ``stage``: an ended one to the step in which it ended."""
    c, cycle = t.column, t.lifecycle
    cases = " ".join(
        f"WHEN {{state}} IN ({in_list(cycle.states_of(step))}) THEN '{step.stage}'" for step in cycle.steps
    )
    state = f"CASE WHEN {c['completed_at']} IS NOT NULL THEN {c['ended_in']} ELSE {c['status']} END"
    return f"CASE {cases.format(state=f'({state})')} ELSE '{cycle.steps[-1].stage}' END = '{stage}'"


def _waits_like(t: JobTable, wait: Wait) -> list[str]:
    """Return the conditions of a class of wait, beside the states in which a job can be in it."""
    c = t.column
    due, action, dispatched = c["due_at"], c["change_action"], c["dispatched_at"]
    match wait:
        case "ready":
            return [f"({due} IS NULL OR {due} <= now())", f"{dispatched} IS NULL"]
        case "dispatched":
            return [f"{dispatched} IS NOT NULL"]
        case "backing_off":
            return [f"{due} > now()", f"{action} IN ('retry', 'rescue')"]
        case "snoozed":
            return [f"{due} > now()", f"{action} = 'snooze'"]
        case "later":
            return [f"{due} > now()", f"coalesce({action}, '') NOT IN ('retry', 'rescue', 'snooze')"]
        case "decision":
            return []


def _owner(t: JobTable, search: JobSearch) -> list[str]:
    c = t.column["owner_id"]
    return [] if search.owner is None else [f"{c} = %(owner)s::uuid AND {c} IS NOT NULL"]


def _free(t: JobTable) -> str:
    """Return the condition of the indexes for lists (``migrations.kernel.v4.lists``)."""
    return f"({t.column['dispatched_at']} IS NULL OR {t.column['completed_at']} IS NOT NULL)"


def _one_value(column: str, value: str) -> tuple[str, str]:
    """Return the condition for one value, as a range, and the order by which only an index of the column has it.

    After an equality the planner would leave the column out of the order, and take any index of ids.
    """
    return f"{column} BETWEEN {value} AND {value}", f"{column} DESC"


# ── statements ───────────────────────────────────────────────────────────────────────────────────────────────────────


def page_sql(walks: Sequence[Walk]) -> str:
    """Return the statement with the rows (id, fits, nth, job …) of a page, newest first."""
    jobs = ", ".join(f"j.{name}" for name in _JOB)
    return f"""
        WITH page AS MATERIALIZED (
          SELECT * FROM ({_union(walks)}) AS found ORDER BY id DESC, fits DESC LIMIT %(limit)s),
        shown AS MATERIALIZED (
          SELECT * FROM runtime.jobs WHERE id = ANY (ARRAY(SELECT page.id FROM page WHERE fits)))
        SELECT page.id, page.fits, page.nth, {jobs}
          FROM page LEFT JOIN shown AS j ON page.fits AND j.id = page.id AND j.table_name = page.table_name
         ORDER BY page.id DESC, page.fits DESC"""


def _union(walks: Sequence[Walk]) -> str:
    return " UNION ALL ".join(f"({_ordered_sql(walk) if walk.order else _gathered_sql(walk)})" for walk in walks)


def _ordered_sql(walk: Walk) -> str:
    t = walk.table
    id_ = t.column["id"]
    order = ", ".join([*(one for one in walk.order if one != f"{id_} DESC"), f"{id_} DESC"])
    fits = f"coalesce({' AND '.join(walk.also)}, false)" if walk.also else "true"
    return f"""
        SELECT '{t.label}' AS table_name, id, fits, nth FROM (
          SELECT id, fits, row_number() OVER () AS nth FROM (
            SELECT {id_} AS id, {fits} AS fits FROM {t.name}
             WHERE {" AND ".join(walk.along)} AND {id_} < %(before)s::uuid AND {id_} >= %(since)s::uuid
             ORDER BY {order} LIMIT %(reads)s) AS j) AS walked
         WHERE fits OR nth = %(reads)s LIMIT %(limit)s"""


def _gathered_sql(walk: Walk) -> str:
    t = walk.table
    # Without the ids in the inner query no index of ids looks cheap.
    return f"""
        WITH gathered AS MATERIALIZED (
          SELECT {t.column["id"]} AS id FROM {t.name} WHERE {" AND ".join([*walk.along, *walk.also])})
        SELECT '{t.label}' AS table_name, id, true AS fits, 0::bigint AS nth FROM gathered
         WHERE id < %(before)s::uuid AND id >= %(since)s::uuid ORDER BY id DESC LIMIT %(limit)s"""


def search_values(search: JobSearch, *, before: UUID = LAST_ID) -> dict[str, Any]:
    """Return the values of the statements, but ``limit`` and ``reads``."""
    return {
        "before": before if search.until is None else min(before, first_id_at(search.until)),
        "owner": search.owner,
        "key": search.key,
        "error": search.error,
        "older_than": search.older_than,
        "error_text": None if search.error_text is None else like_pattern(search.error_text),
        "since": FIRST_ID if search.since is None else first_id_at(search.since),
        **{f"member_{name}": value for name, value in search.members.items()},
    }


def first_id_at(time: datetime) -> UUID:
    """Return the lowest id (UUID, version 7) of jobs enqueued at ``time`` or later. Pure."""
    milliseconds = int(time.timestamp() * 1000)
    return UUID(int=min(max(milliseconds, 0), 2**48 - 1) << 80)
