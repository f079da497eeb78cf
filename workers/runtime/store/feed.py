"""The stream of all transitions in the order of their transactions: nothing is ever committed behind its reader.

A transition is read only when every transaction with a smaller number has ended. So a transaction that stays open with
a write holds up the stream, and loses nothing.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, NamedTuple
from uuid import UUID

from psycopg.rows import tuple_row

from models import every_table
from models.lifecycle import Job
from workers.runtime.database import Raw
from workers.runtime.refusals import Conflict, Problem, Refusal, quoted
from workers.runtime.store.read import TransitionView
from workers.runtime.store.tables import job_table

# One step looks at about as many rows, those that the reader may not see or did not ask for included.
ROWS_PER_STEP = 2_000
MAX_STEPS = 5
MAX_STAGE_CHARACTERS = 100


class FeedPosition(NamedTuple):
    """The place after one transition. Two tables may have jobs with equal ids, so the stage is part of it."""

    transaction_id: int
    job_id: UUID = UUID(int=0)
    version_to: int = 0
    stage: str = ""

    def __str__(self) -> str:
        return f"{self.transaction_id}.{self.job_id.hex}.{self.version_to}.{self.stage}"

    @classmethod
    def parse(cls, text: str) -> "FeedPosition":
        """Return the position that ``str`` wrote; raise Refusal for any other text."""
        try:
            transaction_id, job_id, version_to, stage = text.split(".", 3)
            position = cls(int(transaction_id), UUID(hex=job_id), int(version_to), stage)
        except ValueError:
            raise NotAPosition(text) from None
        if not (text.isascii() and str(position) == text and 0 <= position.transaction_id < 2**63):
            raise NotAPosition(text)
        if not 0 <= position.version_to < 2**31 or len(stage) > MAX_STAGE_CHARACTERS or not stage.isprintable():
            raise NotAPosition(text)
        return position


class NotAPosition(Refusal, ValueError):
    """This text is no position of a stream."""

    def __init__(self, text: str) -> None:
        super().__init__(Problem("after", "must be the id of an event of a stream", quoted(text)))


class ForeignPosition(Conflict):
    """The position comes from another database, or this one was restored from a backup."""

    def __init__(self, position: FeedPosition) -> None:
        rule = "must be a position of this database, which has not come so far"
        super().__init__(Problem("after", rule, quoted(str(position)), "begin the stream anew"))


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedFilter:
    """Which transitions a stream has: those of ``stages``, of jobs of ``owner_id``, of jobs ``about`` something.

    ``about`` is an attribute of job tables and its value, for example ``("project_id", …)``; tables without it are left
    out. None means all. Of jobs that were deleted, a stream with an owner or something to be about has nothing.
    """

    stages: Sequence[str] | None = None
    owner_id: UUID | None = None
    about: tuple[str, Any] | None = None


EVERYTHING = FeedFilter()


@dataclass(frozen=True, slots=True)
class FeedPage:
    """Transitions in order, and where to go on. ``is_current`` says that there is nothing more at this moment."""

    transitions: Sequence[TransitionView]
    positions: Sequence[FeedPosition]
    after: FeedPosition
    is_current: bool


_NAMES = tuple(field.name for field in fields(TransitionView))
_HORIZON = "pg_snapshot_xmin(pg_current_snapshot())"


async def find_horizon(conn: Raw) -> FeedPosition:
    """Return the position from which a reader gets what is committed from now on, and maybe a little of before."""
    row = await (await conn.execute(f"SELECT {_HORIZON}::text::bigint".encode())).fetchone()
    assert row is not None
    return FeedPosition(row[0])


class Horizon(NamedTuple):
    """Every transaction below ``until`` has ended; one from there to below ``newest`` may still be open."""

    until: int
    newest: int


async def read_horizon(conn: Raw) -> Horizon:
    """Return up to where the stream can be read now."""
    cursor = await conn.execute(
        f"SELECT {_HORIZON}::text::bigint, pg_snapshot_xmax(pg_current_snapshot())::text::bigint".encode()
    )
    row = await cursor.fetchone()
    assert row is not None
    return Horizon(*row)


class Moved(NamedTuple):
    """Something that the transitions of some transactions are about; ``about`` has the values as text."""

    stage: str
    owner_id: UUID | None
    about: Sequence[str | None] | None


async def read_moved(conn: Raw, after: int, until: int, *, about: tuple[str, ...] = ()) -> set[Moved]:
    """Return of which stages and owners jobs moved in the transactions from ``after`` to below ``until``.

    ``about`` are attributes of job tables, of which the values are wanted, too. Each stage is also returned alone,
    because of jobs that were deleted meanwhile.
    """
    cursor = await conn.cursor(row_factory=tuple_row).execute(
        _moved_sql(about).encode(), {"after": after, "until": until}
    )
    rows = await cursor.fetchall()
    return {Moved(stage, owner, None if values is None else tuple(values)) for stage, owner, values in rows}


@cache
def _moved_sql(about: tuple[str, ...]) -> str:
    branches = ["SELECT m.stage, NULL::uuid, NULL::text[] FROM moved AS m"]
    for model in every_table(Job):
        t = job_table(model)
        values = ", ".join(f"j.{t.column[name]}::text" if name in t.column else "NULL" for name in about)
        names = ", ".join(f"'{step.stage}'" for step in t.lifecycle.steps)
        branches.append(
            f"SELECT m.stage, j.{t.column['owner_id']}, ARRAY[{values}]::text[] FROM moved AS m"
            f" JOIN {t.name} AS j ON j.{t.column['id']} = m.job_id WHERE m.stage IN ({names})"
        )
    return f"""
        WITH moved AS MATERIALIZED (
          SELECT DISTINCT t.stage, t.job_id FROM runtime.transitions AS t
           WHERE t.transaction_id >= %(after)s::text::xid8 AND t.transaction_id < %(until)s::text::xid8)
        {" UNION ".join(branches)}"""


async def read_feed(conn: Raw, after: FeedPosition, *, limit: int, only: FeedFilter = EVERYTHING) -> FeedPage:
    """Return up to ``limit`` transitions after a position, in the order of (transaction, job, version).

    Whoever goes on at :attr:`FeedPage.after`, or after any transition, sees each one exactly once. Only transitions
    that the session's role may see are read (row level security). The work of one call is bounded: it may return no
    transition although there are some further on; then ``is_current`` is false. Raise ForeignPosition.
    """
    page = await _step(conn, after, limit=limit, only=only)
    for _ in range(MAX_STEPS - 1):
        if page.transitions or page.is_current:
            break
        page = await _step(conn, page.after, limit=limit, only=only)
    return page


async def find_visible(conn: Raw, jobs: AbstractSet[tuple[UUID, str]]) -> set[tuple[UUID, str]]:
    """Return which of these jobs, each with its stage, the session's role and tenant may see."""
    cursor = await conn.execute(
        "SELECT u.id, u.stage FROM unnest(%(ids)s::uuid[], %(stages)s::text[]) AS u (id, stage) "
        "WHERE runtime.can_read_job(u.id, u.stage)",
        {"ids": [id_ for id_, _ in jobs], "stages": [stage for _, stage in jobs]},
    )
    return set(await cursor.fetchall())


async def _step(conn: Raw, after: FeedPosition, *, limit: int, only: FeedFilter) -> FeedPage:
    """Look through the next rows; all in one statement, which has one snapshot and so one horizon."""
    cursor = conn.cursor(row_factory=tuple_row)
    await cursor.execute(
        _feed_sql(only.stages is not None, only.owner_id is not None, only.about[0] if only.about else None).encode(),
        {
            "transaction_id": after.transaction_id,
            "job_id": after.job_id,
            "version_to": after.version_to,
            "stage": after.stage,
            "rows": ROWS_PER_STEP,
            "limit": limit,
            "stages": None if only.stages is None else list(only.stages),
            "owner_id": only.owner_id,
            "about": only.about and only.about[1],
        },
    )
    rows = await cursor.fetchall()
    end, horizon, newest = rows[0][:3]
    if after.transaction_id > newest:
        raise ForeignPosition(after)
    found = [row for row in rows if row[3] is not None]
    transitions = [TransitionView(**dict(zip(_NAMES, row[4:], strict=True))) for row in found]
    positions = [
        FeedPosition(row[3], one.job_id, one.version_to, one.stage) for row, one in zip(found, transitions, strict=True)
    ]
    if len(found) == limit:
        return FeedPage(transitions, positions, positions[-1], is_current=False)
    return FeedPage(transitions, positions, max(after, FeedPosition(end)), is_current=end >= horizon)


@cache
def _feed_sql(stages: bool, owner: bool, about: str | None) -> str:  # noqa: FBT001 - which conditions there are
    """Return the statement. A row has the end of the step, the horizon, the newest transaction, and a transition."""
    where = ["t.stage = ANY (%(stages)s::text[])"] if stages else []
    if owner or about:
        where.append(f"({' OR '.join(_of_tables(owner, about)) or 'false'})")
    conditions = "".join(f" AND {one}" for one in where)
    columns = ", ".join(f"t.{name}" for name in _NAMES)
    # A reader who gets every row that it looks at needs no other bound than its limit.
    step = "runtime.feed_step(%(transaction_id)s::bigint, %(rows)s)"
    step = step if where else f"CASE WHEN row_security_active('runtime.transitions') THEN {step} END"
    return f"""
        WITH bounds AS MATERIALIZED (
          SELECT least({_HORIZON}::text::bigint, {step}) AS until, {_HORIZON}::text::bigint AS horizon,
                 pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS newest)
        SELECT b.until, b.horizon, b.newest, found.*
          FROM bounds AS b LEFT JOIN LATERAL (
               SELECT t.transaction_id::text::bigint, {columns} FROM runtime.transitions AS t
                WHERE t.transaction_id >= %(transaction_id)s::text::xid8 AND t.transaction_id < b.until::text::xid8
                  AND (t.transaction_id > %(transaction_id)s::text::xid8
                       OR (t.job_id, t.version_to, t.stage) > (%(job_id)s, %(version_to)s, %(stage)s)){conditions}
                ORDER BY t.transaction_id, t.job_id, t.version_to, t.stage LIMIT %(limit)s) AS found ON true"""


def _of_tables(owner: bool, about: str | None) -> list[str]:  # noqa: FBT001 - as above
    """Return a condition for each job table that has what is asked for."""
    conditions = []
    for model in every_table(Job):
        t = job_table(model)
        if about and about not in t.column:
            continue
        asked = [f"j.{t.column['owner_id']} = %(owner_id)s"] if owner else []
        asked += [f"j.{t.column[about]} = %(about)s"] if about else []
        names = ", ".join(f"'{step.stage}'" for step in t.lifecycle.steps)
        conditions.append(
            f"t.stage IN ({names}) AND EXISTS (SELECT FROM {t.name} AS j WHERE j.{t.column['id']} = t.job_id"
            f" AND {' AND '.join(asked)})"
        )
    return [f"({one})" for one in conditions]
