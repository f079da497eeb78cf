"""Import assessments of the event-based system: in batches, repeatable, with a complete history.

A finished assessment is inserted like any other, pending and with version 1, and moved to its end in the same
transaction. Each step is in its history with the action ``import``. So the guards need no exception, and nobody sees an
unfinished import of an assessment. Assessments that exist, or existed and were cleaned up, are skipped. So an
interrupted import can be run again.
"""

from collections import Counter
from collections.abc import AsyncIterable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from uuid import UUID

from pydantic_core import to_json
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from models.assessments import RETENTION
from workers.assessment.store.legacy import LegacyAssessment, UnusableEntry, id_of, read_legacy
from workers.assessment.store.refusals import AssessmentError, refusals
from workers.assessment.store.sources import SourceEntry, rows_of_file, rows_of_table
from workers.runtime.actor import NOBODY, Actor, acting
from workers.runtime.database import Database
from workers.runtime.handler.documents import shown

BATCH = 1_000

# The ids contain the creation time, so a list ordered by id is ordered by age.
_INSERT = text("""
    INSERT INTO assessments.assessment_states (id, assessment_id, owner_id, request_data, created_at, updated_at)
    SELECT uuidv7(r.created_at - clock_timestamp()), r.assessment_id, o.owner_id, r.request_data, r.created_at,
           r.updated_at
      FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r (
             assessment_id text, request_data jsonb, created_at timestamptz, updated_at timestamptz)
     CROSS JOIN (SELECT CAST(:owner AS uuid) AS owner_id) AS o
     WHERE NOT EXISTS (SELECT FROM assessments.retired_assessments AS gone
                        WHERE gone.assessment_id = r.assessment_id AND gone.owner_id IS NOT DISTINCT FROM o.owner_id)
     ORDER BY assessment_id
    ON CONFLICT (assessment_id, owner_id) DO NOTHING
    RETURNING id, assessment_id
""")
# A start needs a ticket, and the ticket must be given by an earlier statement.
_GIVE_TICKET = text("UPDATE assessments.assessment_states SET dispatched_at = now() WHERE id = ANY (:ids)")
_START = text("""
    UPDATE assessments.assessment_states SET state = 'processing', version = 2, progress = 1, updated_at = now()
     WHERE id = ANY (:ids)
""")
_END = text("""
    UPDATE assessments.assessment_states AS a
       SET state = r.state, version = a.version + 1, progress = 100, completed_at = r.completed_at,
           updated_at = r.updated_at, result_data = r.result_data, error_message = r.error_message,
           dispatched_at = NULL
      FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r (
             id uuid, state assessments.assessmentstate, result_data jsonb, error_message text,
             updated_at timestamptz, completed_at timestamptz)
     WHERE a.id = r.id
""")


@dataclass(frozen=True, slots=True)
class RefusedEntry:
    """One entry that was refused, and the reason."""

    position: int
    assessment_id: str | None
    reason: str


@dataclass(slots=True)
class ImportReport:
    """The counts of an import: entries ``taken`` by state, ``already_there``, or ``refused``.

    ``past_retention`` counts taken entries that ended so long ago that the next cleanup deletes them.
    """

    read: int = 0
    taken: Counter[str] = field(default_factory=Counter)
    already_there: int = 0
    past_retention: int = 0
    refused: list[RefusedEntry] = field(default_factory=list)


Sessions = Callable[[], AbstractAsyncContextManager[AsyncSession]]
Tell = Callable[[ImportReport], None]
Candidate = tuple[int, LegacyAssessment]


async def import_assessments(
    sessions: Sessions,
    entries: AsyncIterable[SourceEntry],
    *,
    batch: int = BATCH,
    actor: Actor = NOBODY,
    tell: Tell = lambda _: None,
) -> ImportReport:
    """Write the assessments in ``entries``, ``batch`` per transaction; return the report.

    They belong to the actor's user. Without a user they have no owner, and only operators see them. ``sessions()``
    opens a transaction that commits if its block succeeds. ``tell`` is called with the report after each batch.
    """
    report = ImportReport()
    now = datetime.now(UTC)
    actor = replace(
        actor, change_action="import", change_reason=actor.change_reason or "imported from the event system"
    )
    waiting: list[Candidate] = []
    commit = partial(_commit, sessions, actor=actor, report=report, now=now)
    async for entry in entries:
        report.read += 1
        try:
            waiting.append((entry.position, _read_entry(entry, now=now)))
        except UnusableEntry as reason:
            known = id_of(entry.row or {})
            report.refused.append(RefusedEntry(entry.position, known and shown(known), str(reason)))
        if len(waiting) >= batch:
            await commit(waiting)
            waiting = []
            tell(report)
    await commit(waiting)
    tell(report)
    return report


async def import_file(
    database: Database, file: Path, *, batch: int = BATCH, actor: Actor = NOBODY, tell: Tell
) -> ImportReport:
    """Import a CSV with a header or a file of JSON lines; see :func:`import_assessments`."""
    actor = replace(actor, change_reason=actor.change_reason or f"imported from {file.name}")
    return await import_assessments(database.session, rows_of_file(file), batch=batch, actor=actor, tell=tell)


async def import_table(
    database: Database, table: str, *, batch: int = BATCH, actor: Actor = NOBODY, tell: Tell
) -> ImportReport:
    """Import ``table`` of the same database; raise UnknownSource if it does not exist."""
    actor = replace(actor, change_reason=actor.change_reason or f"imported from {table}")
    connection = await database.listen()
    try:
        entries = rows_of_table(connection, table)
        return await import_assessments(database.session, entries, batch=batch, actor=actor, tell=tell)
    finally:
        await connection.close()


def _read_entry(entry: SourceEntry, *, now: datetime) -> LegacyAssessment:
    if entry.row is None:
        raise UnusableEntry(entry.unreadable or "the entry is empty")
    return read_legacy(entry.row, now=now)


async def _commit(
    sessions: Sessions,
    rows: Sequence[Candidate],
    *,
    actor: Actor,
    report: ImportReport,
    now: datetime,
) -> None:
    if not rows:
        return
    async with sessions() as session, acting(session, replace(actor, user_id=None)):
        taken, refused = await _write(session, rows, actor.user_id)
    report.refused += refused
    report.taken.update(row.state for row in taken)
    report.already_there += len(rows) - len(taken) - len(refused)
    report.past_retention += sum(1 for row in taken if row.completed_at and row.completed_at < now - RETENTION)


async def _write(
    session: AsyncSession, rows: Sequence[Candidate], owner: UUID | None
) -> tuple[list[LegacyAssessment], list[RefusedEntry]]:
    """Write ``rows`` in one savepoint. If the database refuses, halve them until only the bad row is refused."""
    try:
        async with refusals(session):
            return await _write_all(session, [row for _, row in rows], owner), []
    except AssessmentError as error:
        if len(rows) == 1:
            position, row = rows[0]
            return [], [RefusedEntry(position, row.assessment_id, str(error))]
    middle = len(rows) // 2
    first, second = await _write(session, rows[:middle], owner), await _write(session, rows[middle:], owner)
    return first[0] + second[0], first[1] + second[1]


async def _write_all(
    session: AsyncSession, rows: Sequence[LegacyAssessment], owner: UUID | None
) -> list[LegacyAssessment]:
    by_id: dict[str, LegacyAssessment] = {}
    for row in rows:
        by_id.setdefault(row.assessment_id, row)  # of two rows with the same id, the first counts
    content = to_json(list(by_id.values())).decode()
    inserted = await session.execute(_INSERT, {"rows": content, "owner": owner})
    taken: list[tuple[UUID, LegacyAssessment]] = [(id_, by_id[assessment_id]) for id_, assessment_id in inserted]
    ended = [(id_, row) for id_, row in taken if row.completed_at]
    ran = [id_ for id_, row in ended if row.state != "cancelled"]
    if ran:
        await session.execute(_GIVE_TICKET, {"ids": ran})
        await session.execute(_START, {"ids": ran})
    if ended:
        endings = to_json([{"id": id_, **_ending(row)} for id_, row in ended])
        await session.execute(_END, {"rows": endings.decode()})
    return [row for _, row in taken]


def _ending(row: LegacyAssessment) -> dict[str, object]:
    names = ("state", "result_data", "error_message", "updated_at", "completed_at")
    return {name: getattr(row, name) for name in names}
