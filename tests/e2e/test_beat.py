"""Real beats on real rows: a time fires once, also with two beats, and pruning deletes only old jobs."""

import time
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import pytest

from tests.chaos.proxy import Proxy
from tests.e2e.system import System
from workers.transport.beat import TICK_SECONDS

pytestmark = pytest.mark.e2e

SCHEDULE = """
    INSERT INTO runtime.schedules (name, stage, payload, cron, catch_up, created_at)
    VALUES (%s, 'proving.plain', '{"act": "write"}', '* * * * *', %s, date_trunc('minute', now()) - interval '5 min')
"""
PRUNE_NOW = """
    INSERT INTO runtime.schedules (name, action, cron, created_at)
    VALUES (%s, 'prune', '* * * * *', date_trunc('minute', now()) - interval '1 min')
"""


@pytest.fixture
def beats(system: System) -> None:
    """Two beats, a worker and a dispatcher."""
    for _ in range(2 - len(system.living("beat"))):
        system.start("beat")
    system.staff(workers=1)
    system.wait(lambda: all(b.has_logged("beat_ready") for b in system.living("beat")), "the beats run", seconds=60.0)


@pytest.mark.parametrize(("catch_up", "times"), [("one", 1), ("all", 5)])
def test_missed_times_fire_once_each_though_two_beats_run(
    system: System, beats: None, catch_up: str, times: int
) -> None:
    """Of five missed minutes ``one`` fires the newest and ``all`` fires each. Every fired time has one job."""
    name = f"{catch_up} {uuid4()}"
    started = system.ask("SELECT now()")[0][0]
    system.run(SCHEDULE, name, catch_up)
    fired = "SELECT job_id FROM runtime.ticks WHERE schedule = %s AND scheduled_for <= %s"
    due = "SELECT last_scheduled_for >= date_trunc('minute', %s) FROM runtime.schedules WHERE name = %s"

    system.wait(lambda: system.ask(due, started, name) == [(True,)], "the missed times have fired")
    system.run("UPDATE runtime.schedules SET enabled = false WHERE name = %s", name)
    jobs = [row[0] for row in system.ask(fired, name, started)]
    system.await_all(jobs)

    assert len(jobs) == len(set(jobs)) == times
    system.assert_settled_once(jobs)
    keyed = system.ask("SELECT count(*) FROM proving.plain_jobs WHERE idempotency_key LIKE %s", f"schedule:{name}:%")
    ticks = system.ask("SELECT count(*) FROM runtime.ticks WHERE schedule = %s", name)
    assert keyed == ticks


def test_prune_deletes_only_jobs_past_their_retention(system: System, beats: None) -> None:
    """Beat starts it. Scoring jobs that ended eight days ago are deleted. Jobs of six days or unfinished ones stay."""
    (profile,) = system.ask("INSERT INTO scoring.profiles (name) VALUES ('pruned') RETURNING id")[0]
    old = [ended_days_ago(system, profile, 8) for _ in range(20)]
    kept = [ended_days_ago(system, profile, 6), waiting_since(system, profile, 30)]

    system.run(PRUNE_NOW, f"prune {uuid4()}")
    remaining = "SELECT id FROM scoring.scoring_jobs WHERE profile_id = %s"
    system.wait(lambda: len(system.ask(remaining, profile)) <= len(kept), "the old ones are pruned")

    assert {row[0] for row in system.ask(remaining, profile)} == set(kept)
    assert all(len(steps) == 2 for steps in system.histories(old).values()), "history outlives the job"
    assert len(system.histories(old)) == len(old)
    default = "SELECT enabled FROM runtime.schedules WHERE name = 'maintenance.prune' AND action = 'prune'"
    assert system.ask(default) == [(True,)], "every installation prunes by itself"


def waiting_since(system: System, profile: UUID, days: int) -> UUID:
    """Return a job that was made ``days`` ago and is not due yet."""
    (job,) = system.ask(
        "INSERT INTO scoring.scoring_jobs (profile_id, prompt, created_at, due_at)"
        " VALUES (%s, 'Is it old?', now() - make_interval(days => %s), now() + interval '1 day') RETURNING id",
        profile,
        days,
    )[0]
    assert isinstance(job, UUID)
    return job


def ended_days_ago(system: System, profile: UUID, days: int) -> UUID:
    """Return a job that ended ``days`` ago."""
    job = waiting_since(system, profile, days)
    system.run(
        "UPDATE scoring.scoring_jobs SET status = 'cancelled', version = 2, due_at = NULL,"
        " completed_at = now() - make_interval(days => %s) WHERE id = %s",
        days,
        job,
    )
    return job


def test_beat_stops_also_if_postgres_does_not_answer_at_that_moment(system: System) -> None:
    """It ends after its current tick, once Postgres has answered."""
    parts = urlsplit(system.database_url)
    with Proxy((parts.hostname or "", parts.port or 0)) as road:
        url = system.database_url.replace(f":{parts.port}", f":{road.port}")
        beat = system.start("beat", environment={"DATABASE_URL": url})
        system.wait(lambda: beat.has_logged("beat: Starting..."), "the beat looks", seconds=60.0)
        with road.stalled():
            time.sleep(2 * TICK_SECONDS)  # a tick starts every second, and now it gets no answer
            beat.terminate()
            time.sleep(TICK_SECONDS / 2)  # so that the signal arrives before the answer

        assert beat.exit_code(within=30) == 0
