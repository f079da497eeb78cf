"""What commands do with the assessment store beyond one question, and the sources they import from."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from uuid import UUID

from psycopg.errors import UndefinedTable
from sqlalchemy.ext.asyncio import AsyncSession

from cli.addresses import addresses
from cli.connection import opened
from config.settings import load
from models.assessments import Assessment
from workers.assessment.store.history import AuditRow, audit_trail
from workers.assessment.store.imports import ImportReport, Refused, import_assessments
from workers.assessment.store.refusals import UnknownAssessment
from workers.assessment.store.rows import AssessmentView
from workers.assessment.store.said import Said
from workers.assessment.store.sources import Found, rows_of_file, rows_of_table
from workers.assessment.store.states import get
from workers.runtime.database import Database
from workers.runtime.refusals import Failed, Refusal
from workers.runtime.store.intervene import cancel


async def seen(
    session: AsyncSession, assessment_id: str, *, owner: UUID | None
) -> tuple[AssessmentView | None, list[AuditRow]]:
    """Return an assessment, if it is still there, and its history; raise UnknownAssessment where there is neither."""
    try:
        assessment = await get(session, assessment_id, owner=owner)
    except UnknownAssessment:
        return None, await audit_trail(session, assessment_id, owner=owner)
    return assessment, await audit_trail(session, assessment_id, owner=assessment.owner_id)


def stop(assessment_id: str, *, reason: str, owner: UUID | None) -> UUID:
    """Cancel an assessment whatever its version, waiting or running; return its job id."""

    async def run() -> UUID:
        async with opened(addresses(load()).database_url) as database:
            async with database.session() as session:
                assessment = await get(session, assessment_id, owner=owner)
            async with database.kernel() as conn:
                if not await cancel(conn, Assessment, [assessment.id], reason=reason):
                    raise Failed(f"assessment {assessment_id!r} is {assessment.status} already")
            return assessment.id

    return asyncio.run(run())


def take_over(
    *,
    table: str | None,
    file: Path | None,
    owner: UUID | None,
    batch: int,
    refused_file: Path | None,
    tell: Callable[[ImportReport], None],
) -> ImportReport:
    """Import from a table of the same database or from a file; write what was refused to ``refused_file``."""
    if (table is None) == (file is None):
        raise Refusal("name a source: --table NAME or a CSV or JSON-lines FILE")

    async def run() -> ImportReport:
        async with opened(addresses(load()).database_url) as database, _entries(database, table, file) as entries:
            said = Said(change_reason=f"imported from {table or Path(file or '').name}")
            return await import_assessments(database.session, entries, owner=owner, batch=batch, said=said, tell=tell)

    report = asyncio.run(run())
    if refused_file is not None:
        refused_file.write_text("".join(f"{_line(one)}\n" for one in report.refused), encoding="utf-8")
    return report


@asynccontextmanager
async def _entries(database: Database, table: str | None, file: Path | None) -> AsyncIterator[AsyncIterator[Found]]:
    if file is not None:
        yield rows_of_file(file)
        return
    connection = await database.listen()
    try:
        yield rows_of_table(connection, table or "")
    except UndefinedTable:
        raise Failed(f"table {table!r} is not in this database") from None
    finally:
        await connection.close()


def _line(refused: Refused) -> str:
    return json.dumps(asdict(refused), ensure_ascii=False)
