"""Each job is executed once, through every door and whatever messages reach the queue."""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from celery import Celery
from kombu import Connection, Producer
from redis import Redis

from tests.e2e.system import Role, System
from tests.support.fakes.openai_server import FakeOpenAI

pytestmark = pytest.mark.e2e

PROFILES = 50
SOME_PROFILES = "INSERT INTO scoring.profiles (name) SELECT 'p' || n FROM generate_series(1, %s) AS n RETURNING id"


@contextmanager
def service(system: System) -> Iterator[Celery]:
    """A Celery application of a service. It knows only our broker."""
    app = Celery("service", broker=system.redis_url, set_as_current=False)
    app.conf.task_ignore_result = True
    yield app
    app.close()


def enter_by_three_doors(system: System, profiles: Sequence[UUID], jobs: int) -> list[UUID]:
    """Enqueue ``jobs`` scoring jobs by Python, SQL and Celery in turn; return their ids once all are rows."""
    asked = [(profiles[n % len(profiles)], f"How clear is it? Question {n} of {uuid.uuid4()}") for n in range(jobs)]
    with service(system) as app:
        for profile, prompt in asked[2::3]:
            payload = {"profile_id": str(profile), "prompt": prompt}
            app.send_task("gristmill.enqueue", args=["scoring.score", payload], queue="gristmill")
    system.enqueue("scoring.score", [{"profile_id": profile, "prompt": prompt} for profile, prompt in asked[0::3]])
    for profile, prompt in asked[1::3]:
        system.ask("SELECT scoring.enqueue_score(%s, %s)", profile, prompt)
    rows = "SELECT id FROM scoring.scoring_jobs WHERE prompt = ANY (%s)"
    prompts = [prompt for _, prompt in asked]
    system.wait(lambda: len(system.ask(rows, prompts)) == jobs, "every message is a row")
    return [row[0] for row in system.ask(rows, prompts)]


@pytest.mark.faults
def test_five_hundred_jobs_survive_a_killed_worker_and_an_emptied_redis(system: System) -> None:
    """500 jobs enter by three doors; a worker is killed and Redis flushed halfway. Each job completes once."""
    with FakeOpenAI() as fake:
        fake.script(default={"kind": "answer", "delay_ms": 300})
        settings = {
            "OPENAI_BASE_URL": fake.url,
            "GRISTMILL_WORKER__SLOTS": "20",
            "GRISTMILL_WORKER__HEARTBEAT_SECONDS": "0.5",
            "GRISTMILL_WORKER__LEASE_SECONDS": "3",
        }
        starting = [system.start_gristmill("worker", **settings) for _ in range(2)]
        system.staff(workers=0)
        with system.lasting(starting) as (victim, _):
            profiles = [row[0] for row in system.ask(SOME_PROFILES, PROFILES)]
            jobs = enter_by_three_doors(system, profiles, 500)
            system.wait(lambda: system.count("completed", jobs) >= 200, "halfway")
            victim.kill()
            with Redis.from_url(system.redis_url) as redis:
                redis.flushall()
            system.await_all(jobs, seconds=90.0)

    system.assert_settled_once(jobs)
    scored = "SELECT count(*), count(parsed_score) FROM scoring.scoring_jobs WHERE id = ANY (%s)"
    assert system.ask(scored, jobs) == [(500, 500)]
    assert fake.calls >= 500
    rescued = [steps for steps in system.histories(jobs).values() if "rescue" in [s.change_action for s in steps]]
    assert rescued, "the victim held nothing: nothing was proved"


# ── refusals of the door ─────────────────────────────────────────────────────────────────────────────────────────────

REFUSED: Mapping[str, tuple[list[Any], dict[str, Any]]] = {
    "payload must be an object, got 'text'": (["scoring.score", "text"], {}),
    "profile_id is required, got nothing": (["scoring.score", {}], {}),
    "due_at must be a valid datetime": (["proving.plain", {}], {"due_at": "tomorrow"}),
    "priority must be a valid integer": (["proving.plain", {}], {"priority": "high"}),
    "priority must be less than or equal to 10, got 11": (["proving.plain", {}], {"priority": 11}),
    "keyword must be one of stage, payload, idempotency_key, priority, due_at, ": (
        ["proving.plain", {}],
        {"model": "x"},
    ),
    "gristmill.enqueue must have at most 5 arguments": (["proving.plain", {}, None, None, None, 6], {}),
    "stage is required, got nothing": ([], {}),
    "stage 'proving.typo' is not registered; known stages: ": (["proving.typo", {}], {}),
    "profile_id must refer to an existing row of profiles, got '00000000-0000-0000-0000-000000000000'": (
        ["scoring.score", {"profile_id": "00000000-0000-0000-0000-000000000000", "prompt": "y"}],
        {},
    ),
}


@pytest.mark.faults
def test_every_refused_message_of_a_service_is_kept_with_its_reason(system: System, crew: list[Role]) -> None:
    """Each one is logged without its values. The valid message behind them becomes a job, and so does each replay."""
    with service(system) as app:
        for _ in range(3):
            for arguments, options in REFUSED.values():
                app.send_task("gristmill.enqueue", args=arguments, kwargs=options, queue="gristmill")
        app.send_task("gristmill.enqueue", args=["proving.plain", {"key": "good"}], queue="gristmill")
    good = "SELECT id FROM proving.plain_jobs WHERE key = 'good'"
    system.wait(lambda: system.ask(good), "the good one is a job")
    kept = "SELECT reason, sum(count)::int FROM runtime.dead_messages WHERE task = 'gristmill.enqueue' GROUP BY reason"
    system.wait(lambda: sum(row[1] for row in system.ask(kept)) >= 3 * len(REFUSED), "all are kept")

    reasons = dict(system.ask(kept))
    assert len(reasons) == len(REFUSED)
    assert set(reasons.values()) == {3}
    for reason in REFUSED:
        assert any(reason in one for one in reasons), (reason, reasons)
        assert any(role.has_logged(reason.partition(", got ")[0].replace('"', '\\"')[-30:]) for role in crew), reason
    assert not any(role.has_logged("Traceback") for role in crew)


@pytest.mark.faults
def test_a_countdown_is_the_due_time_of_a_row_and_an_expired_message_is_kept(system: System, crew: list[Role]) -> None:
    """Celery would keep the first in a worker's memory and drop the second silently."""
    with service(system) as app:

        def send(key: str, **when: Any) -> None:
            app.send_task("gristmill.enqueue", args=["proving.plain", {"key": key}], queue="gristmill", **when)

        send("later", countdown=3600)
        send("late", expires=-5)
        send("in time", expires=3600)
    rows = "SELECT key, due_at > now() + interval '50 minutes' FROM proving.plain_jobs WHERE key = ANY (%s)"
    sent = ["later", "late", "in time"]
    system.wait(lambda: len(system.ask(rows, sent)) == 2, "both are rows")
    kept = "SELECT reason FROM runtime.dead_messages WHERE reason ~ '^message must be taken before it expires'"
    system.wait(lambda: system.ask(kept), "the expired one is kept")

    assert dict(system.ask(rows, sent)) == {"later": True, "in time": None}
    with Redis.from_url(system.redis_url) as redis:
        system.wait(lambda: redis.hlen("unacked") == 0, "no message waits in a worker")


# ── messages in the stage queue ──────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def crew(system: System) -> list[Role]:
    """Two workers and a dispatcher."""
    return system.staff(workers=2)


@contextmanager
def stage_queue(system: System) -> Iterator[Producer]:
    """A plain producer into the queue of the proving stages."""
    with Connection(system.redis_url) as connection, connection.channel() as channel:
        yield Producer(channel, routing_key="proving", auto_declare=False)


def deliver(producer: Producer, batch: Any, *, task: str = "proving.plain") -> None:
    """Publish a message like the dispatcher's."""
    task_id = str(uuid.uuid4())
    headers = {"lang": "py", "task": task, "id": task_id, "root_id": task_id, "parent_id": None, "retries": 0}
    producer.publish([[batch], {}, {}], headers=headers, serializer="json", correlation_id=task_id)


@pytest.mark.faults
def test_delivery_repeated_five_times_executes_once(system: System, crew: list[Role]) -> None:
    """Copies of every message before, during and after the run claim nothing, whatever their version is."""
    jobs = system.enqueue("proving.plain", [{"act": "write", "seconds": 0.5}] * 30)
    batch = [[str(job), 1] for job in jobs]

    with stage_queue(system) as producer:
        for _ in range(5):
            deliver(producer, batch)
        system.await_all(jobs)
        for version in (1, 2, 3):
            for _ in range(5):
                deliver(producer, [[job, version] for job, _ in batch])
    system.assert_each_works(crew)

    system.assert_settled_once(jobs)
    assert {tuple(system.actions(job)) for job in jobs} == {("enqueue", "claim", "complete")}
    assert system.ask("SELECT DISTINCT effects FROM proving.plain_jobs WHERE id = ANY (%s)", jobs) == [(1,)]
    assert system.ask("SELECT max(retry_count) FROM proving.plain_jobs WHERE id = ANY (%s)", jobs) == [(0,)]


def test_undispatched_job_cannot_be_claimed_by_a_forged_message(system: System, crew: list[Role]) -> None:
    """A job needs the leader's ticket: a message for a job that is not due yet does nothing."""
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    (job,) = system.enqueue("proving.plain", [{"act": "write", "due_at": tomorrow}])

    with stage_queue(system) as producer:
        for _ in range(5):
            deliver(producer, [[str(job), 1]])
    system.assert_each_works(crew)
    forged = system.actions(job)
    system.run("UPDATE proving.plain_jobs SET due_at = now() WHERE id = %s", job)
    system.await_all([job])

    assert forged == ["enqueue"]
    assert system.actions(job) == ["enqueue", "claim", "complete"]


BATCHES: Mapping[str, Any] = {
    "an unknown job": [[str(uuid.uuid4()), 1]],
    "no batch": None,
    "a number": 7,
    "half a ticket": [["only an id"]],
    "no uuid": [["not a uuid", 1]],
    "a version that is text": [[str(uuid.uuid4()), "one"]],
    "a version beyond Postgres": [[str(uuid.uuid4()), 2**40]],
    "a negative version": [[str(uuid.uuid4()), -1]],
    "a dictionary": {"id": 1},
    "a version without end": [[str(uuid.uuid4()), float("inf")]],
    "nested too deep": [[[[[[1]]]]]],
}
NAMED = {"lang": "py", "task": "proving.plain", "id": "1"}
JSON = {"content_type": "application/json", "content_encoding": "utf-8"}
PICKLE = {"content_type": "application/x-python-serialize", "content_encoding": "binary"}
MESSAGES: Mapping[str, tuple[Any, dict[str, Any]]] = {
    "an unknown task": ("[[], {}, {}]", {**JSON, "headers": {**NAMED, "task": "proving.no_such_stage"}}),
    "an unknown task without id": ("[[], {}, {}]", {**JSON, "headers": {"lang": "py", "task": "nobody.knows"}}),
    "a task without id": ("[[], {}, {}]", {**JSON, "headers": {"lang": "py", "task": "proving.plain"}}),
    "no JSON": (b"\xff\x00 no json", {**JSON, "headers": NAMED}),
    "plain text": ("plain text", {"content_type": "text/plain", "content_encoding": "utf-8", "headers": NAMED}),
    "a pickle": (b"\x80\x04.", {**PICKLE, "headers": NAMED}),
    "no task": ('{"no": "task"}', JSON),
    "a body of two parts": ("[[], {}]", {**JSON, "headers": NAMED}),
    "brackets without end": ("[" * 100_000, {**JSON, "headers": NAMED}),
    "a body of nothing": ("null", {**JSON, "headers": NAMED}),
    "too many arguments": ("[[1, 2, 3], {}, {}]", {**JSON, "headers": NAMED}),
    "a time limit that is none": ("[[[]], {}, {}]", {**JSON, "headers": {**NAMED, "timelimit": "x"}}),
    "an unknown compression": ("[[[]], {}, {}]", {**JSON, "headers": {**NAMED, "compression": "nobody-knows"}}),
}
# Items of a queue that are not message envelopes. Kombu parses them before it calls the consumer.
NO_MESSAGES = (
    b"\x00 nothing",
    b"[]",
    b"{}",
    b"null",
    b"[" * 100_000,
    b'"text"',
    b'{"properties": 7}',
    b'{"body": "?", "properties": {}}',
)


@pytest.mark.faults
def test_garbage_in_the_stage_queue_leaves_every_worker_working(system: System, crew: list[Role]) -> None:
    """Malformed batches, unknown tasks and foreign bodies are refused. No worker ends, hangs or quotes them."""
    with stage_queue(system) as producer:
        for _ in range(5):  # more than a worker's carrier threads, which they could block
            for batch in BATCHES.values():
                deliver(producer, batch)
            for body, properties in MESSAGES.values():
                producer.publish(body, **properties)
            with Redis.from_url(system.redis_url) as redis:
                redis.lpush("proving", *NO_MESSAGES)

    system.assert_each_works(crew)
    system.check_alive()
    refused = 5 * (len(BATCHES) - 1 + len(MESSAGES) + len(NO_MESSAGES))  # an unknown job is claimed by nobody
    count = "SELECT coalesce(sum(count), 0)::int, count(*)::int FROM runtime.dead_messages WHERE queue = 'proving'"
    system.wait(lambda: system.ask(count)[0][0] >= refused, f"all {refused} are kept")
    assert system.ask(count)[0][0] == refused
    assert system.ask(count)[0][1] <= refused // 5, "one row for each content"
    bodies = {bytes(row[0]) for row in system.ask("SELECT body FROM runtime.dead_messages WHERE queue = 'proving'")}
    assert {b"\xff\x00 no json", b"plain text", b"\x80\x04.", *NO_MESSAGES} <= bodies
    assert all(role.has_logged("message_refused") for role in crew)
    assert not any(role.has_logged("no json", "plain text", "Traceback") for role in crew)
