"""Changes of stages and schedules by people, with the actor."""

import pytest

from tests.support.kernel import PLAIN
from workers.runtime.actor import Actor
from workers.runtime.handler.registry import UnknownStageError
from workers.runtime.operate.schedules import (
    NewSchedule,
    ScheduleExists,
    UnknownSchedule,
    add_schedule,
    edit_schedule,
    enqueue_now,
    list_schedules,
    remove_schedule,
    switch_schedule,
)
from workers.runtime.operate.stages import list_stages, pause_stage, resume_stage

ANN, BOB = Actor(changed_by="person:ann"), Actor(changed_by="person:bob")
NIGHTLY = NewSchedule(name="nightly", cron="0 3 * * *", stage=PLAIN, payload={"key": "k"})


async def test_a_pause_keeps_who_paused_first(jobs):
    """A resume clears it."""
    async with jobs.database.kernel() as conn:
        await pause_stage(conn, PLAIN, ANN)
        await pause_stage(conn, PLAIN, BOB)
        [paused] = [one for one in await list_stages(conn) if one.stage == PLAIN]
        await resume_stage(conn, PLAIN, BOB)
        [open_again] = [one for one in await list_stages(conn) if one.stage == PLAIN]

    assert (paused.paused_by, open_again.paused_by, open_again.paused_at) == ("person:ann", None, None)


@pytest.mark.parametrize("change", [pause_stage, resume_stage])
async def test_an_unknown_stage_is_refused_with_the_known_ones(jobs, change):
    """The refusal has field, rule, value and remedy."""
    async with jobs.database.kernel() as conn:
        with pytest.raises(UnknownStageError) as caught:
            await change(conn, "proving.plian", ANN)

    problem = caught.value.problem
    assert problem is not None
    assert (problem.field, problem.rule, problem.value) == ("stage", "is not registered", "'proving.plian'")
    assert problem.remedy
    assert PLAIN in problem.remedy


async def test_a_schedule_lives_from_add_to_remove(database, registry):
    """Each step returns the new view."""
    async with database.session() as session:
        added = await add_schedule(session, registry, NIGHTLY, ANN)
        edited = await edit_schedule(session, registry, "nightly", {"action": "prune"}, ANN)
        paused = await switch_schedule(session, registry, "nightly", ANN, enabled=False)
        await remove_schedule(session, "nightly", ANN)
        left = await list_schedules(session, registry)

    assert (added.stage, added.payload, added.state) == (PLAIN, {"key": "k"}, "enabled")
    assert (edited.stage, edited.action, edited.payload) == (None, "prune", {})
    assert (paused.state, paused.next_time) == ("paused", None)
    assert "nightly" not in [one.name for one in left]


async def test_a_job_that_a_person_runs_from_a_schedule_names_them(jobs, database, registry):
    """Jobs that beat enqueues name beat."""
    async with database.session() as session:
        await add_schedule(session, registry, NIGHTLY, ANN)
        job_id = await enqueue_now(session, registry, "nightly", BOB)

    [past] = await jobs.history(job_id)
    assert past.changed_by == "person:bob"


async def test_a_name_is_taken_once_and_an_unknown_one_is_not_found(database, registry):
    """The transaction goes on after a refusal."""
    async with database.session() as session:
        await add_schedule(session, registry, NIGHTLY, ANN)
        with pytest.raises(ScheduleExists, match="exists already; `gristmill schedules edit`"):
            await add_schedule(session, registry, NIGHTLY, BOB)
        with pytest.raises(UnknownSchedule):
            await remove_schedule(session, "nightyl", BOB)
