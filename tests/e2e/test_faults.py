"""Kill, freeze, drain, restart, flush: no job is lost and none ends twice."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from redis import Redis

from tests.e2e.system import Role, System
from workers.transport.worker import WORKER_FAILED_EXIT_CODE

pytestmark = [pytest.mark.e2e, pytest.mark.faults]

# The options with which tests/support/proving/__main__.py starts workers and dispatchers.
LEASE_SECONDS, RESCUE_TICK_SECONDS = 3.0, 1.0
GRACE_SECONDS = 3.0
# The time that a shared, slow machine may add to the times by Postgres' clock.
SLACK_SECONDS = 2.0
# An outage logs a few lines. Celery's own messages about its broker come with a traceback.
MAX_OUTAGE_LINES = 400


@pytest.fixture
def crew(system: System) -> list[Role]:
    """Two workers and a dispatcher. Missing ones are started again."""
    return system.staff(workers=2)


def effects(system: System, jobs: Sequence[UUID]) -> set[int]:
    """Return how often the writes of these jobs took effect."""
    return {row[0] for row in system.ask("SELECT effects FROM proving.plain_jobs WHERE id = ANY (%s)", list(jobs))}


def seconds_between(earlier: datetime, later: datetime) -> float:
    return (later - earlier) / timedelta(seconds=1)


def test_killed_worker_costs_its_jobs_one_attempt_and_one_lease(system: System, crew: list[Role]) -> None:
    """The jobs of a killed worker run again within the lease and a tick. Each spends one attempt."""
    jobs = system.enqueue("proving.plain", [{"act": "write", "seconds": 2.0}] * 16)
    system.await_all(jobs, "processing")
    victim = next(role for role in crew if system.held_by(role, jobs))

    held = system.held_by(victim, jobs)
    victim.kill()
    killed_at = system.ask("SELECT clock_timestamp()")[0][0]
    system.await_all(jobs)

    system.assert_settled_once(jobs)
    assert effects(system, jobs) == {1}
    for job, steps in system.histories(jobs).items():
        rerun = ["enqueue", "claim", "rescue", "claim", "complete"]
        assert [s.change_action for s in steps] == (rerun if job in held else ["enqueue", "claim", "complete"])
        if job in held:
            waited = seconds_between(killed_at, steps[3].created_at)
            assert waited < LEASE_SECONDS + RESCUE_TICK_SECONDS + SLACK_SECONDS
    spent = dict(system.ask("SELECT id, retry_count FROM proving.plain_jobs WHERE id = ANY (%s)", jobs))
    assert spent == {job: int(job in held) for job in jobs}


def test_frozen_worker_wakes_as_a_zombie_and_changes_nothing(system: System, crew: list[Role]) -> None:
    """A worker was frozen past its lease, and another ran its jobs. Its writes are refused, and it keeps working."""
    zombie = crew[0]
    short, long = give(system, zombie, {"act": "write", "seconds": 1.5}, {"act": "write", "seconds": 5.0})

    zombie.freeze()
    system.await_all(short)
    system.wait(lambda: all("rescue" in system.actions(job) for job in long), "the long ones are rescued")
    zombie.thaw()
    system.await_all(long)

    jobs = [*short, *long]
    refused = ("stale_write_rejected", "run_stopped")
    system.wait(lambda: all(zombie.has_logged(*refused, job=job) for job in jobs), "the zombie notices")
    system.assert_settled_once(jobs)
    assert effects(system, jobs) == {1}
    assert {tuple(system.actions(job)) for job in jobs} == {("enqueue", "claim", "rescue", "claim", "complete")}
    system.assert_each_works([zombie])


def test_worker_with_a_failed_part_ends_and_others_run_its_jobs(system: System, crew: list[Role]) -> None:
    """It claims no more jobs, its lease expires, and its exit code tells its supervisor."""
    jobs = system.enqueue("proving.plain", [{"act": "break"}, *[{"act": "write", "seconds": 1.0}] * 8])

    (broken,) = system.wait(
        lambda: [role for role in crew if role.has_logged("worker_part_failed")], "a worker says so"
    )
    broken.ended = True
    code = broken.exit_code(within=GRACE_SECONDS + 30)
    system.await_all(jobs)

    assert code == WORKER_FAILED_EXIT_CODE
    system.assert_settled_once(jobs)
    assert system.actions(jobs[0]) == ["enqueue", "claim", "rescue", "claim", "complete"]
    assert effects(system, jobs[1:]) == {1}


def give(system: System, worker: Role, *payloads: Mapping[str, Any]) -> list[list[UUID]]:
    """Return, for each payload, the jobs that ``worker`` runs. Other workers may run some too."""

    def held() -> list[list[UUID]]:
        mine = set(system.held_by(worker, jobs))
        kinds = [[job for job in jobs[start :: len(payloads)] if job in mine] for start in range(len(payloads))]
        return kinds if all(kinds) else []

    jobs: list[UUID] = []
    for _ in range(10):
        jobs += system.enqueue("proving.plain", [*payloads] * 4)
        with suppress(AssertionError):
            found: list[list[UUID]] = system.wait(held, "it runs all kinds", seconds=0.7)
            return found
    raise AssertionError("the worker took none of some kind")


def test_drained_worker_finishes_short_jobs_and_releases_the_rest(system: System) -> None:
    """After SIGTERM short runs finish. Long and unstarted ones are released at once and spend no attempt."""
    system.stop(system.staff(workers=0))
    starting = [
        system.start("worker", slots=16, lease_seconds=60.0, grace_seconds=GRACE_SECONDS),
        system.start("worker", slots=100, lease_seconds=60.0),
    ]
    with system.lasting(starting) as (leaving, staying):
        short, long = give(system, leaving, {"seconds": 2.0}, {"seconds": 18.0})
        quick = system.enqueue("proving.plain", [{}] * 50)
        leaving.terminate()
        terminated_at = system.ask("SELECT clock_timestamp()")[0][0]
        code = leaving.exit_code(within=GRACE_SECONDS + 5.0)
        system.wait(lambda: set(system.held_by(staying, long)) == set(long), "the other worker has the long ones")
        system.await_all([*short, *quick])

    assert code == 0
    assert system.worker_id(leaving) is None
    system.assert_settled_once([*short, *quick])
    assert all(system.actions(job) == ["enqueue", "claim", "complete"] for job in short)
    for job in long:
        steps = system.history(job)
        assert [step.change_action for step in steps] == ["enqueue", "claim", "release", "claim"]
        assert seconds_between(steps[2].created_at, steps[3].created_at) < SLACK_SECONDS
    last = max(system.history(job)[-1].created_at for job in quick)
    assert seconds_between(terminated_at, last) < GRACE_SECONDS + SLACK_SECONDS
    spent = system.ask("SELECT max(retry_count) FROM proving.plain_jobs WHERE id = ANY (%s)", [*short, *long, *quick])
    assert spent == [(0,)]
    system.cancel([row[0] for row in system.ask("SELECT id FROM proving.plain_jobs WHERE status = 'processing'")])


def test_cancelled_run_stops_within_a_second(system: System, crew: list[Role]) -> None:
    """The tasks of cancelled running jobs are cancelled. Their slots are free, and they settle nothing."""
    jobs = system.enqueue("proving.plain", [{"act": "write", "seconds": 15.0}] * 8)
    system.await_all(jobs, "processing")

    assert system.cancel(jobs) == set(jobs)
    system.wait(lambda: stopped_jobs(crew, jobs) == set(jobs), "the runs have stopped", seconds=1.0)

    names = [f"worker-{role.pid}@%" for role in crew]
    running = "SELECT sum(running) FROM runtime.workers WHERE name LIKE ANY (%s)"
    system.wait(lambda: system.ask(running, names)[0][0] == 0, "the slots are free")
    system.assert_each_works(crew)
    system.assert_settled_once(jobs, "cancelled")
    assert effects(system, jobs) == {0}


def stopped_jobs(crew: Sequence[Role], jobs: Sequence[UUID]) -> set[UUID]:
    """Return the jobs of which a worker logged that it stopped the run."""
    return {job for job in jobs for role in crew if role.has_logged("run_stopped", job=job)}


@pytest.mark.parametrize("fault", [Role.kill, Role.freeze])
def test_next_dispatcher_leads_within_five_seconds(
    system: System, crew: list[Role], fault: Callable[[Role], None]
) -> None:
    """If a leader is killed or frozen, the next one gets its lock. A resumed leader does not take it back."""
    system.staff(workers=2, dispatchers=2)
    leader = next(role for role in system.living("dispatcher") if role.pid == system.leader_pid())
    (next_one,) = (role for role in system.living("dispatcher") if role is not leader)
    before = system.enqueue("proving.plain", [{"seconds": 0.2}] * 100)

    fault(leader)
    after = system.enqueue("proving.plain", [{"act": "write"}] * 100)
    system.wait(lambda: system.leader_pid() == next_one.pid, "the next dispatcher leads", seconds=5.0)
    system.await_all([*before, *after])
    leader.thaw()
    last = system.enqueue("proving.plain", [{"seconds": 0.1}] * 100)
    system.await_all(last)

    system.assert_settled_once([*before, *after, *last])
    assert effects(system, after) == {1}
    assert system.leader_pid() == next_one.pid


def postgres_restarts(system: System) -> None:
    system.servers.stop_postgres()
    time.sleep(OUTAGE_SECONDS)
    system.servers.start_postgres()


def postgres_crashes(system: System) -> None:
    system.servers.kill_postgres()
    time.sleep(OUTAGE_SECONDS)
    system.servers.start_postgres()


def valkey_restarts_empty(system: System) -> None:
    with Redis.from_url(system.redis_url) as redis:
        redis.flushall()
    system.servers.stop_valkey()
    time.sleep(OUTAGE_SECONDS)
    system.servers.start_valkey()


def valkey_crashes(system: System) -> None:
    system.servers.kill_valkey()
    time.sleep(OUTAGE_SECONDS)
    system.servers.start_valkey()


OUTAGE_SECONDS = 2.0  # the length of the outage


@pytest.mark.parametrize("outage", [postgres_restarts, postgres_crashes, valkey_restarts_empty, valkey_crashes])
def test_server_that_comes_back_needs_no_restart_of_any_role(
    system: System, crew: list[Role], outage: Callable[[System], None]
) -> None:
    """After an outage of Postgres or Valkey under load every job completes, and every role runs and logs few lines."""
    system.staff(workers=2, dispatchers=2)
    if not system.living("beat"):
        beat = system.start("beat")
        system.wait(lambda: beat.has_logged("beat_ready"), "beat is ready")
    spoken = {role.pid: len(role.lines()) for role in system.roles}
    jobs = system.enqueue("proving.plain", [{"act": "write", "seconds": 0.3}] * 600)
    system.wait(lambda: system.count("completed", jobs) > 50, "the jobs run")

    outage(system)
    jobs += system.enqueue("proving.plain", [{"act": "write"}] * 100)
    system.await_all(jobs, seconds=60.0)

    system.assert_settled_once(jobs)
    assert effects(system, jobs) == {1}
    system.assert_each_works(crew)
    system.check_alive()
    said = {f"{role.kind} {role.pid}": len(role.lines()) - spoken[role.pid] for role in system.roles}
    assert max(said.values()) < MAX_OUTAGE_LINES, said
