"""The published files through all steps: ingested, embedded, judged with a real PDF, rated, compared and found."""

import csv
import io

import pytest
from sqlalchemy import select, text

from gristmill_testing.mill import mill
from gristmill_testing.waiting import until
from models.operations import DataRecord, IngestJob
from tests.support.paths import SHARED_DATA
from workers.analytics.agreement import compare, pairs_of
from workers.analytics.ratings import rate
from workers.ingestion.enqueue_file import ingest_file
from workers.llm.offline import OfflineEvaluator
from workers.operations.projects import get_or_create, list_projects, set_guidelines
from workers.runtime.enqueue import enqueue
from workers.vectorization.similar import similar

DATA = SHARED_DATA
NAMES = ("prompts_chat.csv", "derived_task_feedback.csv", "prompting-book-en.pdf")
QUESTIONS = 50
pytestmark = pytest.mark.skipif(
    not all((DATA / name).exists() for name in NAMES), reason="the published files are not in ../shared/data"
)


async def whole(name):
    yield (DATA / name).read_bytes()


def rows_of(name):
    """Return each row of a file with the number of its first line."""
    csv.field_size_limit(2**24)
    lines = io.StringIO((DATA / name).read_text(encoding="utf-8-sig"), newline="")
    reader = csv.DictReader(lines)
    rows, start = [], 2
    for row in reader:
        rows.append((start, row))
        start = reader.line_num + 1
    return rows


async def test_published_files_go_all_the_way(database, connection, database_url, registry):
    """Every line is saved, or skipped for a reason that the file confirms; every record is judged and can be found."""
    async with database.session() as session:
        project = await get_or_create(session, "published")
        await set_guidelines(session, project, (DATA / NAMES[2]).read_bytes(), NAMES[2])
        prompts = await ingest_file(
            session,
            project_id=project.id,
            type="TASK",
            stream=whole(NAMES[0]),
            file_name=NAMES[0],
            mapping={"type": ""},  # the column of that name has another meaning in this file
        )
        feedback = await ingest_file(
            session, project_id=project.id, type="FEEDBACK", stream=whole(NAMES[1]), file_name=NAMES[1]
        )
        jobs = [prompts.id, feedback.id]

    async def ended(table, ids):
        sql = text(f"SELECT bool_and(completed_at IS NOT NULL) FROM operations.{table} WHERE id = ANY (:ids)")
        async with database.session() as session:
            return await session.scalar(sql, {"ids": ids})

    async with mill(database_url, registry, OfflineEvaluator()):
        await until(lambda: ended("ingest_jobs", jobs), within=180)
        async with database.session() as session:
            analysis = (await enqueue(session, "analytics.align", {"project_id": str(project.id)})).id
        await until(lambda: ended("analytics_jobs", [analysis]), within=180)

    async with database.session() as session:
        done = {job.id: job for job in await session.scalars(select(IngestJob).where(IngestJob.id.in_(jobs)))}
        records = (await session.scalars(select(DataRecord).where(DataRecord.project_id == project.id))).all()
        [view] = await list_projects(session, name_or_id="published")
    for job_id, name, content, wanted in (
        (prompts.id, NAMES[0], "prompt", None),
        (feedback.id, NAMES[1], "content", "FEEDBACK"),
    ):
        explained(done[job_id], rows_of(name), content=content, wanted=wanted)
    assert (done[prompts.id].saved_count, done[prompts.id].skipped_count) == (1_458, 18)
    assert view.embedded == len(records) == sum(job.saved_count for job in done.values())
    assert {record.alignment_job_id for record in records} == {analysis}
    assert all(record.alignment["verdict"] in {"aligned", "partly", "not_aligned"} for record in records)
    assert view.last_task_analysis
    assert view.last_feedback_analysis

    async with database.session() as session:
        hits = 0
        for record in records[:: len(records) // QUESTIONS][:QUESTIONS]:
            found = await similar(session, to=record.id, project_id=project.id, limit=10)
            exact = await similar(session, to=record.id, project_id=project.id, limit=10, exact=True)
            hits += len({match.record.id for match in found} & {match.record.id for match in exact})
        for record in records[:20]:
            await rate(session, record.id, "ana", realism=4, quality=5)
        compared = compare(await pairs_of(session, project.id))
    assert hits >= 0.95 * 10 * QUESTIONS
    [rules] = compared.models
    assert (rules.model, rules.rule_based, rules.realism.n) == ("offline-rubric-v1", True, 20)


def explained(job, rows, *, content, wanted):
    """Check a job's counts and skipped lines against the file."""
    by_line = dict(rows)
    assert job.total_records == len(rows) == job.saved_count + job.skipped_count
    assert job.skipped_count == sum(told["count"] for told in (job.skipped_details or {}).values())
    first: dict[str, int] = {}
    for line, row in rows:
        first.setdefault(row[content], line)
    for reason, told in (job.skipped_details or {}).items():
        for line in told["lines"]:
            row = by_line[line]
            match reason:
                case "duplicate_in_file":
                    assert first[row[content]] < line
                case "other_type":
                    assert row["type"] != wanted
                case "duplicate_in_project":
                    assert row[content]
                case _:
                    pytest.fail(f"line {line} was skipped as {reason}")
