"""The standings of a bonus window: tiers, bounds, overlaps, and days when the clocks change."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import text

from workers.operations import windows
from workers.operations.projects import get_or_create
from workers.operations.refusals import OperationsError, UnknownWindow
from workers.runtime.handler.naming import NAME_RULE

START = datetime(2026, 3, 2, 8, tzinfo=UTC)
END = START + timedelta(days=5)


async def created(session, creator: str | None, tasks: int = 0, feedback: int = 0, *, at: datetime = START) -> None:
    """Insert records of ``creator`` into the test's project, all created at ``at``."""
    project = await get_or_create(session, "windows")
    await session.execute(
        text("""
            INSERT INTO operations.data_records ("projectId", type, source, content, "createdById", "createdByName",
                                                 "createdAt")
            SELECT :project, CASE WHEN n > CAST(:tasks AS int) THEN 'FEEDBACK' ELSE 'TASK' END::operations."RecordType",
                   'test', gen_random_uuid()::text, CAST(:creator AS text), upper(:creator), CAST(:at AS timestamptz)
              FROM generate_series(1, CAST(:tasks AS int) + CAST(:feedback AS int)) AS n"""),
        {"project": project.id, "tasks": tasks, "feedback": feedback, "creator": creator, "at": at},
    )


async def window(session, **request: Any):
    return await windows.create(session, {"start": START, "end": END, **request})


async def tiers(session, made) -> dict[str, int]:
    return {one.creator_id: one.tier for one in await windows.standings(session, made.id)}


@pytest.mark.parametrize(
    ("targets", "done", "tier"),
    [
        ({"tasks": 2, "feedback": 1}, (2, 1), 1),
        ({"tasks": 2, "feedback": 1}, (5, 0), 0),  # both targets, or none
        ({"tasks": 2, "feedback": 1}, (1, 9), 0),
        ({"tasks": 2}, (2, 0), 1),  # 0 disables feedback
        ({"feedback": 3}, (0, 3), 1),
        ({}, (9, 9), 0),  # two disabled metrics are no target
        ({"tasks": 2, "tasks_tier2": 4, "feedback_tier2": 1}, (4, 1), 2),
        ({"tasks": 2, "tasks_tier2": 4, "feedback_tier2": 1}, (4, 0), 1),
        ({"tasks_tier2": 3}, (3, 0), 2),
        ({"tasks": 2}, (1, 0), 0),
    ],
)
async def test_a_tier_needs_all_of_its_targets(session, targets, done, tier):
    """Tier 2 is checked before tier 1; a target of 0 disables its metric."""
    made = await window(session, **targets)
    await created(session, "ada", *done)

    [standing] = await windows.standings(session, made.id)

    assert (standing.task_count, standing.feedback_count, standing.tier) == (*done, tier)
    assert (standing.window_name, standing.creator_name) == ("Bonus Window", "ADA")


async def test_the_start_counts_and_the_end_does_not(session):
    """The time of a record is set by the database."""
    made = await window(session, tasks=1)
    await created(session, "early", 1, at=START - timedelta(microseconds=1))
    await created(session, "first", 1, at=START)
    await created(session, "last", 1, at=END - timedelta(microseconds=1))
    await created(session, "late", 1, at=END)

    assert await tiers(session, made) == {"first": 1, "last": 1}


async def test_a_record_counts_in_each_of_two_windows_that_overlap(session):
    """One query returns both."""
    one = await window(session, tasks=2)
    other = await window(session, start=START + timedelta(days=1), end=END + timedelta(days=1), tasks=1)
    await created(session, "ada", 1, at=START)
    await created(session, "ada", 1, at=START + timedelta(days=2))
    await created(session, "bob", 1, at=END)

    assert await tiers(session, one) == {"ada": 1}
    assert await tiers(session, other) == {"ada": 1, "bob": 1}


async def test_without_a_window_standings_of_the_open_ones_are_returned(session):
    """The database's clock decides."""
    now = await session.scalar(text("SELECT now()"))
    hour = timedelta(hours=1)
    await window(session, name="open", start=now - hour, end=now + hour, tasks=1)
    await window(session, name="over", start=now - 2 * hour, end=now, tasks=1)
    await window(session, name="to come", start=now + hour, end=now + 2 * hour, tasks=1)
    await created(session, "ada", 1, at=now - hour / 2)

    assert [(one.window_name, one.tier) for one in await windows.standings(session)] == [("open", 1)]
    assert [one.name for one in await windows.list_windows(session, open_only=True)] == ["open"]


@pytest.mark.parametrize(
    ("day", "hours"),
    [(datetime(2026, 3, 29), 23), (datetime(2026, 10, 25), 25), (datetime(2026, 3, 28), 24)],  # noqa: DTZ001
)
async def test_a_local_day_is_as_long_as_the_clocks_make_it(session, day, hours):
    """A window from midnight to midnight in Berlin has 23 hours in March and 25 in October."""
    berlin = ZoneInfo("Europe/Berlin")
    start, end = day.replace(tzinfo=berlin), (day + timedelta(days=1)).replace(tzinfo=berlin)
    made = await window(session, start=start, end=end, tasks=1)
    for hour in range(-1, 26):
        await created(session, "ada", 1, at=start.astimezone(UTC) + timedelta(hours=hour))

    [standing] = await windows.standings(session, made.id)

    assert standing.task_count == hours
    assert made.end_time - made.start_time == timedelta(hours=hours)


async def test_records_of_nobody_earn_nothing(session):
    """Only creators are listed, the best first."""
    made = await window(session, tasks=3)
    await created(session, None, 9)
    await created(session, "ada", 2)
    await created(session, "bob", 3)
    await created(session, "eve", 1)

    assert list(await tiers(session, made)) == ["bob", "ada", "eve"]


@pytest.mark.parametrize(
    ("request_", "line"),
    [
        ({"end": START}, "end must be later than start 2026-03-02T08:00:00+00:00"),
        ({"tasks": -1}, "tasks must be greater than or equal to 0, got -1"),
        ({"name": " "}, f"name must have 1 to 255 characters, {NAME_RULE}, got ' '"),
        ({"start": datetime(2026, 1, 1)}, "start must have timezone info, got datetime.datetime(2026, 1, 1, 0, 0)"),  # noqa: DTZ001
        ({"start": "tomorrow"}, "start must be a valid datetime or date"),
        ({"taks": 1}, "taks is not a field, got 1"),
    ],
)
async def test_a_wrong_window_is_refused_in_one_line(session, request_, line):
    """The line has field, rule and value."""
    with pytest.raises(OperationsError) as refused:
        await window(session, **request_)

    assert str(refused.value).startswith(line)


async def test_a_change_is_held_to_the_rules_of_a_new_window(session):
    """Values that are not given stay."""
    made = await window(session, tasks=3)

    changed = await windows.change(session, made.id, {"feedback": 2, "name": "Spring"})
    assert (changed.name, changed.target_task_count, changed.target_feedback_count) == ("Spring", 3, 2)
    with pytest.raises(OperationsError, match="end must be later"):
        await windows.change(session, made.id, {"end": START - timedelta(days=1)})

    await windows.remove(session, made.id)
    with pytest.raises(UnknownWindow, match="does not exist"):
        await windows.standings(session, made.id)


async def test_standings_read_the_window_and_not_the_table(session):
    """The index on creation times is used, so records outside the window cost nothing."""
    made = await window(session, tasks=1)
    await created(session, "ada", 3_000, at=START - timedelta(days=100))
    await created(session, "ada", 5)
    await session.execute(text("ANALYZE operations.data_records"))

    plan = await session.scalars(
        text(f"""EXPLAIN SELECT count(*) FROM operations.data_records AS r WHERE r."createdAt" >= '{START}'
                 AND r."createdAt" < '{END}' AND r."createdById" IS NOT NULL GROUP BY r."createdById" """)
    )

    assert "ix_data_records_creator" in "\n".join(plan)
    assert await tiers(session, made) == {"ada": 1}
