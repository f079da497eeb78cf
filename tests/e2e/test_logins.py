"""A whole system in which each process uses the login of its kind. Each login has all rights that it needs."""

from collections.abc import Iterator
from typing import Any

import pytest

from local.logins import Login, make_logins
from tests.e2e.system import Role, System

DENIED = ("permission denied", "row-level security", "InsufficientPrivilege", "must be owner")


@pytest.fixture(scope="module")
def logins(system: System, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Login]:
    """Every login on the system's database, by kind."""
    system.run("GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA proving TO gristmill_worker")  # for its handlers
    folder = tmp_path_factory.mktemp("roles")
    return {one.kind: one for one in make_logins(system.database_url, folder, new_passwords=True)}


@pytest.fixture(autouse=True)
def _nothing_was_denied(system: System) -> Iterator[None]:
    yield
    denied = [line for role in system.roles for line in role.lines() if any(word in line for word in DENIED)]
    assert not denied, denied[:3]


def started(system: System, logins: dict[str, Login], kind: str, **options: Any) -> Role:
    login = logins["dispatcher" if kind == "beat" else kind]
    return system.start(kind, environment={"DATABASE_URL": login.url}, **options)


def test_jobs_run_fail_are_rescued_and_cancelled(system, logins):
    """Worker and dispatcher claim, settle, retry, rescue and fence with their own logins."""
    workers = [started(system, logins, "worker") for _ in range(2)]
    started(system, logins, "dispatcher")
    with system.lasting(workers):
        done = system.enqueue("proving.plain", [{"act": "write"}] * 20)
        failed = system.enqueue("proving.plain", [{"act": "fail"}])
        two_steps = system.enqueue("proving.first", [{}] * 5)
        keyed = system.enqueue("proving.keyed", [{"key": "a"}] * 10)
        for ids, state in ((done, "completed"), (failed, "failed"), (two_steps, "completed"), (keyed, "completed")):
            system.await_all(ids, state)
            system.assert_settled_once(ids, state)

        held = system.enqueue("proving.plain", [{"seconds": 2.0}] * 10)
        system.wait(lambda: all(system.held_by(role, held) for role in workers), "both workers run some")
        workers[0].kill()
        system.await_all(held)
        assert any("rescue" in system.actions(job) for job in held)

        slow = system.enqueue("proving.plain", [{"seconds": 30.0}])
        system.wait(lambda: system.held_by(workers[1], slow), "it runs")
        assert system.cancel(slow) == set(slow)
        running = "SELECT running FROM runtime.workers WHERE id = %s"
        me = system.worker_id(workers[1])
        system.wait(lambda: system.ask(running, me) == [(0,)], "its run is stopped", seconds=20)

    users = system.ask("SELECT DISTINCT usename FROM pg_stat_activity WHERE usename LIKE 'gristmill_%'")
    assert ("gristmill_dispatcher_login",) in users


def test_beat_enqueues_and_starts_every_maintenance_action(system, logins):
    """Each minute a schedule's job and every action run. Beat itself makes the partitions."""
    actions = ("prune", "expire", "partitions", "forget_workers", "orphan_calls")
    system.run(
        "INSERT INTO runtime.schedules (name, stage, payload, cron) VALUES ('job', 'proving.plain', '{}', '* * * * *')"
    )
    for action in actions:
        system.run("INSERT INTO runtime.schedules (name, action, cron) VALUES (%s, %s, '* * * * *')", action, action)
    [worker] = workers = [started(system, logins, "worker")]
    beat = started(system, logins, "beat")
    with system.lasting(workers):
        system.wait(
            lambda: system.ask(
                "SELECT count(*) FROM runtime.jobs AS j JOIN runtime.ticks AS t ON t.job_id = j.id"
                " WHERE j.status = 'completed'"
            )[0][0],
            "a scheduled job is done",
            seconds=90,
        )
        for action in actions:
            role = beat if action == "partitions" else worker
            system.wait(
                lambda role=role, action=action: any(
                    "maintenance_done" in line and f'"{action}"' in line for line in role.lines()
                ),
                f"{action} is done",
            )
