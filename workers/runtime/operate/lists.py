"""List and count jobs for people and clients: a closed list of filters, pages that stay where they are, capped counts.

Whoever the connection acts for sees what row level security allows: a tenant lists its own jobs, an operator all jobs.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import inspect
from sqlalchemy.types import Integer, Uuid

from models import list_mapped
from models.lifecycle import Job
from workers.runtime.bounds import text_problem
from workers.runtime.cursors import make_cursor, read_cursor
from workers.runtime.database import Raw
from workers.runtime.handler.registry import Registry, UnknownStageError, discover
from workers.runtime.refusals import Problem, Refusal, quoted
from workers.runtime.store import lists as store
from workers.runtime.store.counts import StateCount, read_counts
from workers.runtime.store.lists import LAST_ID, WAITS, JobSearch, Viewer, Walk
from workers.runtime.store.read import JobFilter, JobView, list_stage_tables
from workers.runtime.store.states import declared_states, match_states
from workers.runtime.store.tables import JobTable, job_table

__all__ = [
    "FILTERS",
    "MAX_COUNTED",
    "WAITS",
    "JobCount",
    "JobPage",
    "JobSearch",
    "count_jobs",
    "find_newest",
    "list_page",
    "read_search",
    "search_of",
]

# A count of what no counter has stops here.
MAX_COUNTED = 1_000
MAX_VALUE_CHARACTERS = 255
FILTERS = ("stage", "state", "wait", "owner", "key", "error", "from", "to")


@dataclass(frozen=True, slots=True)
class JobPage:
    """Jobs, newest first. ``next`` is the cursor of the next page; None: there is none.

    A page may be shorter than its limit, even empty, and have a next one: then it has read its share of jobs that do
    not match.
    """

    jobs: Sequence[JobView]
    next: str | None


@dataclass(frozen=True, slots=True)
class JobCount:
    """How many jobs match; if ``is_more``, at least this many."""

    jobs: int
    is_more: bool


async def list_page(conn: Raw, search: JobSearch, *, limit: int = 50, cursor: str | None = None) -> JobPage:
    """Return a page of the jobs that match; ``cursor`` is ``next`` of the page before.

    Jobs that are added meanwhile come on no later page, and move no job to another one. Raise WrongCursorError.
    """
    async with conn.transaction():
        viewer, walks, search = await _prepare(conn, search)
        bound_to = [_canonical(search), viewer.is_trusted, str(viewer.actor_id)]
        before = LAST_ID if cursor is None else UUID(bytes=read_cursor(cursor, of=bound_to, size=16))
        found = await store.read_slice(conn, walks, search, limit=limit, before=before)
    end = found.goes_on_after
    return JobPage(found.jobs, None if end is None else make_cursor(end.bytes, of=bound_to))


async def find_newest(conn: Raw, search: JobSearch, *, limit: int, after: UUID | None = None) -> list[JobView]:
    """Return the newest ``limit`` jobs with lower ids than ``after``, however many others must be read for them.

    For an operator who waits.
    """
    jobs: list[JobView] = []
    before: UUID | None = after or LAST_ID
    async with conn.transaction():
        _, walks, search = await _prepare(conn, search)
        while before is not None and len(jobs) < limit:
            found = await store.read_slice(conn, walks, search, limit=limit - len(jobs), before=before)
            jobs += found.jobs
            before = found.goes_on_after
    return jobs[:limit]


async def list_unknown_tables(conn: Raw) -> list[str]:
    """Return the job tables of the database that this process has no model of: lists leave out their jobs.

    The package that brings them is not installed here, or is newer than this release.
    """
    known = {table.label for table in _tables()}
    return sorted(set((await list_stage_tables(conn)).values()) - known)


async def count_jobs(conn: Raw, search: JobSearch) -> JobCount:
    """Return how many jobs match: exactly if an operator asks by stage and state only, else up to ``MAX_COUNTED``."""
    async with conn.transaction():
        viewer, walks, search = await _prepare(conn, search)
        if viewer.is_trusted and search == JobSearch(stage=search.stage, states=search.states):
            return JobCount(_sum(await read_counts(conn), search, await list_stage_tables(conn)), is_more=False)
        return JobCount(*await store.count_matching(conn, walks, search, at_most=MAX_COUNTED))


def _sum(counts: Sequence[StateCount], search: JobSearch, tables: Mapping[str, str]) -> int:
    """Return the number of jobs of these stages and states. Pure."""
    return sum(
        one.jobs
        for one in counts
        if search.stage in {None, one.stage}
        and (search.states is None or (tables.get(one.stage), one.state) in search.states)
    )


async def _prepare(conn: Raw, search: JobSearch) -> tuple[Viewer, list[Walk], JobSearch]:
    """Return for whom to search, along which walks, and what: a tenant's search is one of its own jobs."""
    viewer = await store.prepare_search(conn)
    stages = await list_stage_tables(conn)
    if search.stage is not None and search.stage not in stages:
        raise UnknownStageError(search.stage, stages)
    if not viewer.is_trusted:
        if viewer.actor_id is None or search.owner not in {None, viewer.actor_id}:
            return viewer, [], search
        search = replace(search, owner=viewer.actor_id)
    there = set(stages.values())
    tables = [t for t in _tables() if t.label in there]
    return viewer, store.plan_walks(tables, search, searchable=_searchable(_stages())), search


@cache
def _stages() -> Registry:
    """Return every stage. Handlers are looked for once: a gateway lists often."""
    return discover()


def _tables() -> list[JobTable]:
    _stages()
    return sorted(map(job_table, list_mapped(Job)), key=lambda t: t.label)


def _searchable(registry: Registry) -> dict[str, set[str]]:
    """Return the searchable attributes of each table."""
    found: dict[str, set[str]] = defaultdict(set)
    for stage in registry.values():
        found[job_table(stage.model).label] |= stage.searchable
    return found


def _canonical(search: JobSearch) -> dict[str, Any]:
    values = {name: value for name, value in asdict(search).items() if value not in (None, {})}
    return values | ({"states": sorted(search.states)} if search.states is not None else {})


# ── filters ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_search(given: Mapping[str, str]) -> JobSearch:
    """Return the search that these filters mean; raise Refusal that names the filter and its rule.

    ``FILTERS`` are for all jobs: ``state`` is a state or a group of states, ``error`` the fingerprint of an error,
    ``from`` and ``to`` (not included) are times. A stage adds its searchable columns.
    """
    members = {name: stage.model for stage in _stages().values() for name in sorted(stage.searchable)}
    known = (*FILTERS, *sorted(members))
    for name in given:
        if name not in known:
            raise Refusal(Problem(name, f"is not a filter; filters are {', '.join(known)}"))
    texts = {name: _text(name, value) for name, value in given.items()}
    return JobSearch(
        stage=texts.get("stage"),
        states=_states(texts["state"]) if "state" in texts else None,
        wait=_read(texts, "wait", _wait),
        owner=_read(texts, "owner", UUID, "must be a UUID"),
        key=texts.get("key"),
        error=_read(texts, "error", _fingerprint, "must be the fingerprint of an error: 32 hexadecimal digits"),
        since=_read(texts, "from", _time, "must be a time with its zone, such as 2026-01-31T12:00:00Z"),
        until=_read(texts, "to", _time, "must be a time with its zone, such as 2026-01-31T12:00:00Z"),
        members={name: _member(name, texts[name], model) for name, model in members.items() if name in texts},
    )


def search_of(wanted: JobFilter) -> JobSearch:
    """Return the search for the filter of an operator; raise UnknownStateError."""
    return JobSearch(
        stage=wanted.stage,
        states=None if wanted.status is None else _states(wanted.status),
        older_than=wanted.older_than,
        error_text=wanted.error,
    )


def _states(name: str) -> frozenset[tuple[str, str]]:
    return frozenset(match_states([declared_states(t.label, t.lifecycle) for t in _tables()], name))


def _text(name: str, value: str) -> str:
    if not 0 < len(value) <= MAX_VALUE_CHARACTERS or text_problem(value) is not None:
        rule = f"must have 1 to {MAX_VALUE_CHARACTERS} characters and no NUL"
        raise Refusal(Problem(name, rule, quoted(value)))
    return value


def _read(texts: Mapping[str, str], name: str, read: Callable[[str], Any], rule: str | None = None) -> Any:
    """Return the value of a filter, if it is given; raise Refusal with ``rule`` if it cannot be read."""
    if name not in texts:
        return None
    try:
        return read(texts[name])
    except (ValueError, OverflowError) as error:
        raise Refusal(Problem(name, rule or str(error), quoted(texts[name]))) from None


def _wait(text: str) -> str:
    if text not in WAITS:
        raise ValueError(f"must be one of {', '.join(WAITS)}")
    return text


def _fingerprint(text: str) -> str:
    if len(text) != 32 or set(text) - set("0123456789abcdef"):  # noqa: PLR2004 - as runtime.error_fingerprint
        raise ValueError
    return text


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError
    return time.astimezone(UTC)


def _member(name: str, text: str, model: type[Job]) -> Any:
    """Return the value of a searchable column, as its type."""
    match inspect(model).attrs[name].columns[0].type:
        case Uuid():
            return _read({name: text}, name, UUID, "must be a UUID")
        case Integer():
            return _read({name: text}, name, _int32, "must be an integer")
    return text


def _int32(text: str) -> int:
    number = int(text)
    if not -(2**31) <= number < 2**31:
        raise ValueError
    return number
