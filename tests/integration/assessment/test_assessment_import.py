"""Importing from the event-based system: all CHECKs hold, histories are complete, a repeat changes nothing."""

import csv
import json
from datetime import UTC, datetime, timedelta

import pytest

from tests.support import seed_assessments
from workers.assessment.store.imports import import_assessments
from workers.assessment.store.refusals import UnknownSource
from workers.assessment.store.sources import rows_of_file, rows_of_table
from workers.runtime.beat.maintenance import prune_jobs
from workers.runtime.store.verify import verify_history

NOW = datetime.now(UTC)
STATES = ("completed", "failed", "cancelled", "processing")


@pytest.fixture
def existing(psql):
    """The table of the event-based system with a row of each kind, in the schema a person would have it in."""
    psql.execute("DROP TABLE IF EXISTS public.existing_assessments")
    psql.execute(seed_assessments.EXISTING.partition(";")[0].replace("existing", "public.existing"))
    add(psql, 8)
    yield psql
    psql.execute("DROP TABLE public.existing_assessments")


def add(psql, count: int, *, prefix: str = "old", age: timedelta = timedelta(hours=2)) -> None:
    for number in range(count):
        psql.execute(
            "INSERT INTO public.existing_assessments VALUES (%s, 'srv', 'llm_rubric', '{}', %s, 'event', %s, %s, %s)",
            [f"{prefix}-{number}", NOW, STATES[number % 4], NOW - age, NOW - age + timedelta(hours=1)],
        )


async def take(database, *, batch: int = 3):
    connection = await database.listen()
    try:
        entries = rows_of_table(connection, "public.existing_assessments")
        return await import_assessments(database.session, entries, batch=batch)
    finally:
        await connection.close()


def rows(psql):
    found = psql.execute("SELECT * FROM assessments.assessment_states ORDER BY assessment_id").fetchall()
    return {row["assessment_id"]: row for row in found}


async def test_every_row_of_the_table_is_taken_with_its_times_and_a_whole_history(existing, database):
    """The seed's query breaks two CHECKs; the import satisfies all."""
    report = await take(database)

    assert (report.read, report.refused) == (8, [])
    assert report.taken == {"completed": 2, "failed": 2, "cancelled": 2, "pending": 2}
    taken = rows(existing)
    ended, waiting = taken["old-0"], taken["old-3"]
    assert (ended["state"], ended["progress"], ended["version"]) == ("completed", 100, 3)
    assert ended["created_at"] == NOW - timedelta(hours=2)
    assert ended["completed_at"] == ended["updated_at"] == NOW - timedelta(hours=1)
    assert ended["request_data"]["serverName"] == "srv"
    assert (waiting["state"], waiting["progress"], waiting["completed_at"]) == ("pending", 0, None)
    trail = existing.execute(
        "SELECT new_state::text AS state, change_action, changed_by FROM assessments.assessment_state_audit "
        "WHERE assessment_id = 'old-0' ORDER BY version_to"
    ).fetchall()
    assert [row["state"] for row in trail] == ["pending", "processing", "completed"]
    assert {(row["change_action"], row["changed_by"]) for row in trail} == {("import", "test")}
    async with database.kernel() as conn:
        assert sum(check.violations for check in await verify_history(conn)) == 0


async def test_a_repeat_takes_nothing_twice_and_changes_nothing(existing, database):
    """A repeat imports only rows that are new."""
    await take(database)
    before = rows(existing)
    add(existing, 1, prefix="new")

    report = await take(database)

    assert (report.read, report.already_there, report.taken) == (9, 8, {"completed": 1})
    assert {name: row for name, row in rows(existing).items() if name in before} == before


async def test_an_interrupted_import_keeps_its_batches(existing, database):
    """Committed batches stay, and the next run continues after them."""

    async def broken():
        connection = await database.listen()
        async for entry in rows_of_table(connection, "public.existing_assessments"):
            if entry.position > 4:
                await connection.close()
                raise ConnectionError("the source went away")
            yield entry

    with pytest.raises(ConnectionError):
        await import_assessments(database.session, broken(), batch=3)
    assert len(rows(existing)) == 3

    report = await take(database)
    assert (report.already_there, report.taken.total()) == (3, 5)


async def test_what_was_cleaned_up_after_an_import_does_not_come_back(existing, database):
    """Old assessments are imported, counted separately, and deleted by the next cleanup."""
    existing.execute("DELETE FROM public.existing_assessments")
    add(existing, 1, age=timedelta(days=60))

    first = await take(database)
    pruned = await prune_jobs(database)
    second = await take(database)

    assert (first.past_retention, first.taken.total(), pruned) == (1, 1, 1)
    assert (second.already_there, second.taken.total()) == (1, 0)
    assert rows(existing) == {}


async def test_one_bad_row_costs_its_neighbours_nothing(existing, database):
    """Each refusal has position, id and reason, also if only Postgres detects it."""
    existing.execute("UPDATE public.existing_assessments SET status = 'lost' WHERE assessment_id = 'old-1'")
    existing.execute("UPDATE public.existing_assessments SET created_at = NULL, timestamp = NULL "
                     "WHERE assessment_id = 'old-2'")  # fmt: skip

    report = await take(database, batch=100)

    reasons = {one.assessment_id: one.reason for one in report.refused}
    assert reasons.keys() == {"old-1", "old-2"}
    assert "got 'lost'" in reasons["old-1"]
    assert reasons["old-2"] == "created_at is required, got nothing"
    assert len(rows(existing)) == 6


async def test_files_are_read_line_by_line(database, psql, tmp_path):
    """CSV and JSON lines are read; a refusal names the number of a broken line, or of a row with a NUL."""
    fields = {"assessment_id": "c-1", "server_name": "srv", "status": "failed", "created_at": "2026-01-01T00:00:00Z"}
    with (tmp_path / "old.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([[*fields], [*fields.values()], [*fields.values(), "too", "many"]])
    lines = [{**fields, "assessment_id": "j-1"}, {**fields, "assessment_id": "j-2", "error": "\x00"}, [], "{"]
    (tmp_path / "old.jsonl").write_text("\n".join(json.dumps(line) for line in lines[:3]) + "\n\n{\n")

    reports = [
        await import_assessments(database.session, rows_of_file(tmp_path / name)) for name in ("old.csv", "old.jsonl")
    ]

    assert set(rows(psql)) == {"c-1", "j-1"}
    refused = [[(one.position, one.reason) for one in report.refused] for report in reports]
    assert refused[0] == [(3, "the line has more fields than the header's 4")]
    assert {position for position, _ in refused[1]} == {2, 3, 5}
    assert dict(refused[1])[2] == "no text may contain a NUL character, which Postgres cannot store"
    assert dict(refused[1])[3] == "the line must be a JSON object, got list"


async def test_a_missing_table_is_refused(database):
    """The refusal is one line, and nothing is written."""
    connection = await database.listen()
    with pytest.raises(UnknownSource, match=r"table 'nothing\.here' is not in this database"):
        await import_assessments(database.session, rows_of_table(connection, "nothing.here"))
    await connection.close()
