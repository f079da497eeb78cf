"""The store in Python and its races: of several services exactly one wins, and the others get the reason."""

import asyncio
import threading
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from sqlalchemy import text

from workers.assessment.store import cache, states
from workers.assessment.store.history import audit_trail
from workers.assessment.store.refusals import IllegalTransition, InvalidChange, UnknownAssessment, VersionConflict
from workers.assessment.store.reports import statistics
from workers.runtime.actor import Actor
from workers.runtime.beat.maintenance import expire_rows
from workers.runtime.database import Database

REQUEST = {"serverName": "srv", "assessmentType": "llm_rubric", "options": {}}
WRITERS = 10


# ── ten writers with one version ────────────────────────────────────────────────────────────────────────────────────


def test_of_ten_writers_in_sql_one_wins_and_nine_get_both_versions(psql, database_url):
    """All write at once, each on its own connection."""
    psql.execute("SELECT assessments.create_assessment('a-1', '{}')")
    start = threading.Barrier(WRITERS)
    results: list[object] = []

    def write(number: int) -> None:
        with psycopg.connect(database_url, autocommit=True) as connection:
            start.wait(timeout=30)
            try:
                connection.execute(
                    "SELECT assessments.update_assessment_state('a-1', 'processing', 1, p_changed_by => %s)",
                    [f"writer-{number}"],
                )
                results.append(f"writer-{number}")
            except psycopg.Error as error:
                results.append((error.sqlstate, error.diag.message_primary))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)

    [winner] = [one for one in results if isinstance(one, str)]
    lost = [one for one in results if isinstance(one, tuple)]
    assert lost == [("GM409", "assessment 'a-1' has version 2, expected version 1")] * (WRITERS - 1)
    row = psql.execute("SELECT state, version, progress FROM assessments.assessment_states").fetchone()
    assert row == {"state": "processing", "version": 2, "progress": 1}
    trail = psql.execute("SELECT changed_by FROM assessments.assessment_state_audit WHERE version_to = 2").fetchall()
    assert trail == [{"changed_by": winner}]


async def test_of_ten_writers_by_sqlalchemy_one_wins_and_nine_get_both_versions(database_url):
    """The exception has both versions."""
    database = Database(database_url, changed_by="test", pool_size=WRITERS)
    async with database.session() as session:
        await states.create(session, "a-1", REQUEST)

    async def write(number: int) -> int:
        async with database.session() as session:
            actor = Actor(changed_by=f"writer-{number}")
            return await states.update(session, "a-1", "processing", version=1, progress=5, actor=actor)

    results = await asyncio.gather(*(write(number) for number in range(WRITERS)), return_exceptions=True)
    await database.close()

    assert [one for one in results if not isinstance(one, BaseException)] == [2]
    conflicts = [one for one in results if isinstance(one, VersionConflict)]
    assert [(one.expected, one.actual) for one in conflicts] == [(1, 2)] * (WRITERS - 1)
    assert {str(one) for one in conflicts} == {"assessment 'a-1' has version 2, expected version 1"}


async def test_of_ten_creators_of_one_id_all_get_the_same_assessment(database_url):
    """A creation that is asked for again is the same creation."""
    database = Database(database_url, changed_by="test", pool_size=WRITERS)

    async def create() -> object:
        async with database.session() as session:
            return await states.create(session, "a-1", REQUEST)

    ids = await asyncio.gather(*(create() for _ in range(WRITERS)))
    await database.close()

    assert len(set(ids)) == 1


# ── one writer ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_trail_has_every_change_made_in_python(database):
    """The trail has who, why, action, context, ip and user agent of each change."""
    actor = Actor(
        changed_by="service-a",
        change_reason="first look",
        change_action="inspect",
        context={"ticket": 7},
        ip_address="192.0.2.7",
        user_agent="agent/1",
    )
    async with database.session() as session:
        await states.create(session, "a-1", REQUEST, priority=2, timeout_seconds=60)
        version = await states.update(session, "a-1", "processing", version=1, actor=actor)
        version = await states.update(session, "a-1", "processing", version=version, progress=50, actor=actor)
        version = await states.update(session, "a-1", "completed", version=version, result_data={"score": 1})
        assessment = await states.get(session, "a-1")
        trail = await audit_trail(session, "a-1")

    assert (assessment.status, assessment.version, assessment.progress) == ("completed", 4, 100)
    assert (assessment.priority, assessment.timeout_seconds) == (2, 60)
    assert [row.change_action for row in trail] == ["enqueue", "inspect", "inspect", "complete"]
    assert [row.change_reason for row in trail] == [None, "first look", "first look", None]
    assert [row.changed_by for row in trail] == ["test", "service-a", "service-a", "test"]
    assert [row.context for row in trail] == [None, {"ticket": 7}, {"ticket": 7}, None]
    assert [row.ip_address for row in trail] == [None, "192.0.2.7", "192.0.2.7", None]
    assert [row.user_agent for row in trail] == [None, "agent/1", "agent/1", None]
    assert [(row.version_from, row.version_to) for row in trail] == [(None, 1), (1, 2), (2, 3), (3, 4)]


NUL = "no text may contain a NUL character, which Postgres cannot store"
UNKNOWN_STATE = "state must be one of pending, processing, completed, failed, cancelled, got 'done'"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (("a-1", "completed", 1, {}), IllegalTransition, "assessment 'a-1' is pending, it cannot become completed"),
        (("a-2", "processing", 1, {}), UnknownAssessment, "assessment 'a-2' does not exist (any more)"),
        (("a-1", "done", 1, {}), InvalidChange, UNKNOWN_STATE),
        (("a-1", "processing", 1, {"result_data": {"x": "\x00"}}), InvalidChange, NUL),
    ],
)
async def test_a_refusal_is_one_line_and_leaves_the_transaction_usable(database, change, error, message):
    """The caller's earlier changes are kept."""
    name, state, version, more = change
    async with database.session() as session:
        await states.create(session, "a-1", REQUEST)
        with pytest.raises(error) as refused:
            await states.update(session, name, state, version=version, actor=Actor(changed_by="me"), **more)
        said = await session.scalar(text("SELECT current_setting('gristmill.changed_by')"))
        assessment = await states.get(session, "a-1")

    assert str(refused.value) == message
    assert (assessment.version, said) == (1, "test")


async def test_progress_outside_its_state_is_refused_by_name(database):
    """The message names the rule."""
    async with database.session() as session:
        await states.create(session, "a-1", REQUEST)
        with pytest.raises(InvalidChange, match="progress"):
            await states.update(session, "a-1", "processing", version=1, progress=0)


async def test_a_failed_assessment_without_attempts_cannot_be_retried(database):
    """The row itself limits its attempts."""
    async with database.session() as session:
        await states.create(session, "a-1", REQUEST)
        await session.execute(text("UPDATE assessments.assessment_states SET max_retries = 0"))
        await states.update(session, "a-1", "processing", version=1)
        await states.update(session, "a-1", "failed", version=2, error_message="boom")
        with pytest.raises(InvalidChange, match="retry_count"):
            await states.update(session, "a-1", "pending", version=3)


async def test_newest_assessments_come_in_pages(database):
    """Pages continue after the last id of the previous page, and can be filtered by state."""
    async with database.session() as session:
        for number in range(3):
            await states.create(session, f"a-{number}", REQUEST)
        await states.update(session, "a-1", "cancelled", version=1)
        first = await states.list_newest(session, limit=2)
        rest = await states.list_newest(session, limit=2, after=first[-1].id)
        cancelled = await states.list_newest(session, state="cancelled")

    assert [one.assessment_id for one in (*first, *rest)] == ["a-2", "a-1", "a-0"]
    assert [one.assessment_id for one in cancelled] == ["a-1"]


async def test_the_cache_forgets_by_itself_and_beat_deletes_what_expired(database):
    """An expired entry is not returned, and the next maintenance deletes it."""
    async with database.session() as session:
        for name in ("a-1", "a-2"):
            await states.create(session, name, REQUEST)
        await cache.put(session, "a-1", {"state": "pending"})
        await cache.put(session, "a-2", {"state": "pending"}, ttl=timedelta())
        found = [await cache.get(session, name) for name in ("a-1", "a-2")]

    removed = await expire_rows(database)

    assert found == [{"state": "pending"}, None]
    assert removed == 1


async def test_statistics_count_measure_and_name_reasons(database):
    """Counts by state, percentiles by type, and one line for failures that differ only in numbers and names."""
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    async with database.session() as session:
        for number in range(4):
            await states.create(session, f"a-{number}", REQUEST)
            await states.update(session, f"a-{number}", "processing", version=1)
        await states.update(session, "a-0", "completed", version=2)
        for number in (1, 2):
            error = f"server 'srv-{number}' answered {500 + number}"
            await states.update(session, f"a-{number}", "failed", version=2, error_message=error)
    async with database.session() as session:
        found = await statistics(session, since=timedelta(hours=1))

    assert {one.state: one.count for one in found.states} == {"processing": 1, "completed": 1, "failed": 2}
    assert [one.oldest is not None for one in found.states] == [True, False, False]
    [durations] = found.durations
    assert (durations.assessment_type, durations.count) == ("llm_rubric", 1)
    assert 0 <= durations.total.p50 <= durations.total.p95 < 60
    [failure] = found.failures
    assert (failure.reason, failure.count) == ("server '…' answered N", 2)
    assert failure.hour - hour <= timedelta(hours=1)  # a new hour may begin during the test
    assert sum(one.count for one in found.hours) == 3
