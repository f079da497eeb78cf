"""If a process dies at any step, another continues: nothing is lost or done twice, and no person is needed.

Each failpoint kills a real process at work. Processes of one kind die a few at a time while another one lives. The
history names each worker by its id, so a dead worker's transitions are known.
"""

import uuid
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any
from uuid import UUID

import pytest
from celery import Celery

from tests.e2e.crashes import (
    ACCOUNTING,
    BATCHING,
    KEEPING,
    WAIT_ENDS,
    Crash,
    Crashes,
    Schedule,
    arm,
    assert_effects_once,
    assert_lawful,
    await_ends,
    crash_all,
    enqueue_some,
    let_time_pass,
    unacknowledged,
)
from tests.e2e.system import START_SECONDS, Role, System
from tests.support.fakes.openai_server import FakeOpenAI
from workers.runtime.failpoints import POINTS, Point

pytestmark = [pytest.mark.e2e, pytest.mark.faults]

CALLER: tuple[Point, ...] = ("enqueue.before", "enqueue.after")
CARRYING: tuple[Point, ...] = ("ack.before", "ack.after", "carrier.before", "carrier.after", "claim.before")
HOLDING: tuple[Point, ...] = (
    "claim.after",
    "settle.before",
    "settle.after",
    "write.before",
    "write.after",
    "commit.before",
    "commit.after",
    "heartbeat.before",
    "heartbeat.after",
)
ASKING: tuple[Point, ...] = ("provider.before", "provider.after")
SYSTEM: tuple[Point, ...] = ("enqueue_commit.before", "enqueue_commit.after", "prune.before", "prune.after")
LEADING: tuple[Point, ...] = (
    "dispatch.before",
    "dispatch.after",
    "publish.before",
    "publish.after",
    "rescue.before",
    "rescue.after",
    "notices.before",
    "notices.after",
    "fold.before",
    "fold.after",
)
TICKING: tuple[Point, ...] = ("tick.before", "tick.after")

# A crash at the heartbeat before the first claim would be a failed start. These crash later, during their work.
NTH: dict[Point, int] = {"heartbeat.before": 8, "heartbeat.after": 8}
SHORT_LEASE: dict[str, Any] = {"heartbeat_seconds": 0.4, "lease_seconds": 3.0}
# Long enough for a live worker on a machine that starts a dozen processes.
LONG_LEASE: dict[str, Any] = {"heartbeat_seconds": 0.5, "lease_seconds": 10.0}
# At these points the worker's first outcomes are not committed yet.
NOTHING_COMMITTED = {"claim.after", "settle.before", "settle.after", "write.before", "write.after", "commit.before"}

# A job that ended two days ago is past the table's retention. A waiting job is kept, whatever its age.
OLD_JOBS = """
    WITH made AS (
      INSERT INTO proving.plain_jobs (key, created_at, due_at)
      SELECT 'old', now() - interval '3 days', now() + interval '1 day' FROM generate_series(1, 20) RETURNING id)
    SELECT array_agg(id) FROM made
"""
END_OLD = """
    UPDATE proving.plain_jobs SET status = 'cancelled', version = 2, due_at = NULL,
           completed_at = now() - interval '2 days' WHERE id = ANY (%s)
"""
BY_KEY = "SELECT idempotency_key, id FROM proving.plain_jobs WHERE idempotency_key = ANY (%s)"
PROFILES = "INSERT INTO scoring.profiles (name) SELECT 'p' || n FROM generate_series(1, 6) AS n RETURNING id"
SCHEDULE = """
    INSERT INTO runtime.schedules (name, stage, payload, cron, catch_up, created_at)
    VALUES (%s, 'proving.plain', '{"act": "write"}', '* * * * *', 'all', date_trunc('minute', now()) - interval '5 min')
"""
MISSED = 5


Send = Callable[..., object]


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeOpenAI]:
    """The provider that answers the scoring jobs."""
    with FakeOpenAI() as fake:
        yield fake


@pytest.fixture(scope="module")
def survivor(system: System, provider: FakeOpenAI) -> Role:
    """A worker that serves all queues and never dies, and a leader for it."""
    worker = system.start("worker", model_url=provider.url, **LONG_LEASE)
    system.staff(workers=0)
    system.await_ready([worker])
    return worker


@pytest.fixture(scope="module")
def send(system: System) -> Iterator[Send]:
    """Send a message to the system queue, like services and beat do."""
    with Celery("service", broker=system.redis_url, set_as_current=False) as app:
        app.conf.task_ignore_result = True
        yield lambda task, *args: app.send_task(task, args=args, queue="gristmill")


# ── a service ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("point", CALLER)
def test_caller_that_dies_before_its_commit_leaves_no_job(system: System, survivor: Role, point: Point) -> None:
    """Without a commit there is no job. Two more requests with the same key make one job."""
    key = f"{point} {uuid.uuid4()}"
    kept = "SELECT id FROM proving.plain_jobs WHERE idempotency_key = %s"

    caller = arm(system, "caller", point, key=key)
    caller.exit_code(within=30.0)
    left = system.ask(kept, key)
    again = {system.enqueue("proving.plain", [{"act": "write", "idempotency_key": key}])[0] for _ in range(2)}
    system.await_all(list(again))

    Crash(point, caller).assert_there()
    assert left == []
    assert system.ask(kept, key) == [(job,) for job in again]


# ── workers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def workers(system: System, survivor: Role, provider: FakeOpenAI, send: Send) -> Crashes:
    """Workers with one queue each that die from its jobs or messages."""
    profiles = [row[0] for row in system.ask(PROFILES)]
    prompts = (f"How clear is it? Question {n}" for n in count())  # a repeated question would not be asked again
    found = Crashes()

    def start(point: Point) -> Role:
        queue = "scoring" if point in ASKING else "gristmill" if point in SYSTEM else "proving"
        # Creating the provider's client blocks the loop, and so the heartbeat, for seconds on a busy machine.
        lease = LONG_LEASE if point in ASKING else SHORT_LEASE
        options = {**lease, "queues": [queue], "model_url": provider.url}
        return arm(system, "worker", point, nth=NTH.get(point, 1), **options)

    def feed() -> None:
        found.jobs += enqueue_some(system)
        asked = [{"profile_id": str(profile), "prompt": next(prompts)} for profile in profiles]
        found.scoring += system.enqueue("scoring.score", asked)
        (old,) = system.ask(OLD_JOBS)[0]
        found.waiting.append(old.pop())
        system.run(END_OLD, old)
        found.keys.append(str(uuid.uuid4()))
        send("gristmill.enqueue", "proving.plain", {"act": "write"}, found.keys[-1])
        send("gristmill.maintain", "prune")

    found.by_point = crash_all(system, (*CARRYING, *HOLDING, *ASKING, *SYSTEM), start=start, feed=feed)
    written = dict(system.ask(BY_KEY, found.keys))
    kept = unacknowledged(system)
    found.taken = [key for key in found.keys if key not in written and key in kept]
    found.jobs += written.values()
    let_time_pass(system, 120.0)
    system.start("worker", queues=["gristmill"])  # looks for lost messages ten seconds after its start
    await_ends(system, found.jobs + found.scoring)
    found.histories = system.histories(found.jobs + found.scoring)
    return found


@pytest.mark.parametrize("point", CARRYING)
def test_worker_that_dies_before_its_claim_spends_no_attempt(workers: Crashes, point: Point) -> None:
    """Its batch is dispatched again. If its acknowledgement raced its claim, the jobs are rescued."""
    crash = workers.by_point[point]

    crash.assert_there()
    if point in {"carrier.before", "claim.before"}:
        assert workers.steps_of(crash) == []
    assert {step.change_action for step in workers.after_claims_of(crash)} <= {"rescue", "complete"}


@pytest.mark.parametrize("point", [*HOLDING, *ASKING])
def test_what_a_dying_worker_held_is_rescued_and_what_it_committed_stays(workers: Crashes, point: Point) -> None:
    """After each of its claims comes its own commit or a rescue."""
    crash = workers.by_point[point]

    after = workers.after_claims_of(crash)

    crash.assert_there()
    assert after or point in NTH, "it claimed nothing: nothing was proved"  # heartbeats happen without work, too
    own = [step for step in after if step.changed_by == f"worker:{crash.worker_id}"]
    assert {step.change_action for step in after if step not in own} <= {"rescue"}
    if point in NOTHING_COMMITTED:
        assert own == []
    if point == "commit.after":
        assert {step.change_action for step in own} == {"complete"}, after


def test_jobs_that_outlive_their_workers_end_once(system: System, workers: Crashes) -> None:
    """After all crashes each job ended once, with one effect and not more attempts than allowed."""
    assert_lawful(system, workers.jobs, workers.histories)
    assert_lawful(system, workers.scoring, workers.histories)
    assert_effects_once(system, workers.jobs)
    rescued = [steps for steps in workers.histories.values() if any(s.change_action == "rescue" for s in steps)]
    assert rescued, "no job was held by a dying worker: nothing was proved"


@pytest.mark.parametrize(("point", "committed"), [("enqueue_commit.before", False), ("enqueue_commit.after", True)])
def test_door_that_dies_has_the_row_or_has_not(
    system: System, workers: Crashes, point: Point, *, committed: bool
) -> None:
    """Before the commit the job of a service's message has no row; after it, it has one."""
    crash = workers.by_point[point]
    written = "SELECT count(*) FROM runtime.transitions WHERE changed_by = %s AND change_action = 'enqueue'"

    crash.assert_there()
    assert (system.ask(written, f"worker:{crash.worker_id}") != [(0,)]) == committed


@pytest.mark.parametrize("point", ["prune.before", "prune.after"])
def test_prune_that_dies_deletes_nothing_but_what_is_old(
    system: System, workers: Crashes, send: Send, point: Point
) -> None:
    """The next pass deletes the other old jobs. Recently ended jobs and old waiting jobs are kept."""
    left = "SELECT count(*) FROM proving.plain_jobs WHERE key = 'old' AND status <> 'pending'"

    send("gristmill.maintain", "prune")
    system.wait(lambda: system.ask(left) == [(0,)], "the old jobs are gone")

    workers.by_point[point].assert_there()
    assert system.count("pending", workers.waiting) == len(workers.waiting)
    assert system.count("completed", workers.jobs) + system.count("failed", workers.jobs) == len(workers.jobs)


# ── dispatchers ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def leaders(system: System, survivor: Role) -> Crashes:
    """Dispatchers that die one after the other while they lead. A dead worker's jobs are there to be rescued."""
    found = Crashes()
    victim = system.start("worker", queues=["proving"], **SHORT_LEASE)
    (leader,) = system.living("dispatcher")
    system.await_ready([victim])
    held: list[UUID] = []

    def held_by_victim() -> list[UUID]:
        if not system.count("pending", held):  # the others took them all
            held.extend(system.enqueue("proving.plain", [{"act": "write", "seconds": 4.0}] * 8))
        return system.held_by(victim, held)

    system.wait(held_by_victim, "the victim holds some")

    def start(point: Point) -> Role:
        return arm(system, "dispatcher", point, batch_size=8)

    def feed() -> None:
        if leader.alive:
            leader.kill()
            victim.kill()
        found.jobs += enqueue_some(system)

    found.by_point = crash_all(system, LEADING, start=start, feed=feed)
    system.staff(workers=0)
    found.jobs += held
    await_ends(system, found.jobs)
    found.histories = system.histories(found.jobs)
    return found


@pytest.mark.parametrize("point", LEADING)
def test_leader_that_dies_is_followed_by_the_next(leaders: Crashes, point: Point) -> None:
    """Jobs that it marked and did not publish, or published and nobody claimed, are dispatched again by another."""
    crash = leaders.by_point[point]

    crash.assert_there()
    if point in {"dispatch.after", "publish.before"}:
        assert crash.stranded, "no ticket was out: nothing was proved"


def test_jobs_that_outlive_their_leaders_end_once(system: System, leaders: Crashes) -> None:
    """The crash of a leader costs no job an attempt. Only the rescue from the dead worker costs one."""
    assert_lawful(system, leaders.jobs, leaders.histories)
    assert_effects_once(system, leaders.jobs)
    rescues = [sum(s.change_action == "rescue" for s in steps) for steps in leaders.histories.values()]
    assert max(rescues) == 1
    assert sum(rescues) < len(leaders.jobs) / 2


# ── beats ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def schedule(system: System, survivor: Role) -> Schedule:
    """A schedule with five missed times. Beats that die and one that lives fire them."""
    found = Schedule(f"crash {uuid.uuid4()}", system.ask("SELECT now()")[0][0])
    system.run(SCHEDULE, found.name)
    for point in TICKING:
        beat = arm(system, "beat", point)
        beat.exit_code(within=30.0)
        found.crashes[point] = Crash(point, beat)
        found.jobs[point] = found.fired(system)
    system.start("beat")
    later = Schedule(f"later {uuid.uuid4()}", found.until)
    system.run(SCHEDULE, later.name)
    system.wait(lambda: later.fired(system), "another beat goes on", seconds=START_SECONDS)
    return found


@pytest.mark.parametrize(("point", "times"), [("tick.before", 0), ("tick.after", MISSED)])
def test_tick_and_job_are_committed_together(schedule: Schedule, point: Point, times: int) -> None:
    """A beat that dies before its commit leaves no tick and no job. One that dies after it leaves both."""
    schedule.crashes[point].assert_there()
    assert len(schedule.jobs[point]) == times


def test_times_that_dead_beats_fired_are_not_fired_again(system: System, schedule: Schedule) -> None:
    """Each time has one job, although three beats took part. Each job ends once."""
    jobs = schedule.fired(system)
    keys = "SELECT count(*) FROM proving.plain_jobs WHERE id = ANY (%s) AND idempotency_key LIKE %s"

    system.await_all(jobs)

    assert len(set(jobs)) == MISSED
    assert system.ask(keys, jobs, f"schedule:{schedule.name}:%") == [(MISSED,)]
    system.assert_settled_once(jobs)
    assert_effects_once(system, jobs)


def test_message_whose_worker_died_comes_back_and_makes_one_job(system: System, workers: Crashes, send: Send) -> None:
    """A message that was taken and made no row is delivered again. Repeats by the service add no job."""
    assert workers.taken
    system.wait(lambda: len(system.ask(BY_KEY, workers.taken)) == len(workers.taken), "every message came back")

    for key in workers.keys:
        send("gristmill.enqueue", "proving.plain", {"act": "write"}, key)
    system.wait(lambda: len(system.ask(BY_KEY, workers.keys)) == len(workers.keys), "every key has its job")
    jobs = [row[1] for row in system.ask(BY_KEY, workers.keys)]
    system.await_all(jobs)

    system.assert_settled_once(jobs)
    assert_effects_once(system, jobs)


def test_every_failpoint_is_tested() -> None:
    """At every declared failpoint a process of these tests dies."""
    here = [*CALLER, *CARRYING, *HOLDING, *ASKING, *SYSTEM, *LEADING, *TICKING]
    elsewhere = [*KEEPING, *WAIT_ENDS, *ACCOUNTING, *BATCHING]
    assert sorted([*here, *elsewhere]) == sorted(POINTS)
