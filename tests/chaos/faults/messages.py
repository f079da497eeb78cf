"""Messages that should not be in the queues: copies, old, forged, invalid and very large ones."""

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from kombu import Connection, Producer

from tests.chaos.arena import Arena
from tests.chaos.faults import fault

QUEUES = ("proving", "scoring")
TIMES = 5
JOBS, KEYED = 30, 12
MEGABYTES = 4
NAMED = {"lang": "py", "task": "proving.plain", "id": "1"}


@fault()
def deliveries_repeated(arena: Arena) -> None:
    """Every message arrives five times, also messages with earlier versions: each job runs once."""
    jobs = arena.plain(JOBS, act="write", seconds=0.5)
    keyed = _keyed(arena)
    with _producer(arena) as producer:
        for version in (1, 1, 2, 3):
            for _ in range(TIMES):
                _deliver(producer, [[str(job), version] for job in jobs])
                _deliver(producer, [[str(job), version] for job in keyed], task="proving.keyed")
            arena.rest(0.2)
    _assert_each_ran_once(arena, "proving.plain", jobs)
    _assert_each_ran_once(arena, "proving.keyed", keyed)


@fault()
def deliveries_reordered(arena: Arena) -> None:
    """The messages in the queues are shuffled and repeated many times: each job runs once."""
    jobs = arena.plain(4 * JOBS, act="write", seconds=1.0)
    keyed = _keyed(arena)
    with arena.redis() as redis:
        for _ in range(40):
            for queue in QUEUES:
                taken: list[bytes] = redis.lpop(queue, 1_000) or []
                arena.draw.shuffle(taken)
                if taken:
                    redis.rpush(queue, *taken, *taken[:TIMES])
            arena.rest(0.02)
    _assert_each_ran_once(arena, "proving.plain", jobs)
    _assert_each_ran_once(arena, "proving.keyed", keyed)


def _keyed(arena: Arena) -> list[UUID]:
    """Enqueue more jobs of one key than may run at once. A copied message must not work like a ticket."""
    return arena.workload.put("proving.keyed", [{"key": "copied", "act": "write", "seconds": 0.3}] * KEYED)


def _assert_each_ran_once(arena: Arena, stage: str, jobs: Sequence[UUID]) -> None:
    table = arena.workload.table(stage)
    rows = f"SELECT effects, retry_count, version, count(*) FROM {table} WHERE id = ANY (%s) GROUP BY 1, 2, 3"
    once = [(1, 0, 3, len(jobs))]
    arena.wait(lambda: arena.ask(rows, list(jobs)) == once, "each ran once, at its first attempt", seconds=60.0)


@fault()
def messages_forged(arena: Arena) -> None:
    """Messages name jobs that do not exist, are not due, or belong to another stage: they claim nothing."""
    tomorrow = "9999-01-01T00:00:00Z"
    undue = arena.plain(10, due_at=tomorrow)
    strangers = [[str(uuid.uuid4()), version] for version in (-1, 0, 1, 2**31 - 1, 2**40)]
    with _producer(arena) as producer:
        for _ in range(TIMES):
            _deliver(producer, [[str(job), 1] for job in undue])
            for stranger in strangers:
                _deliver(producer, [stranger])
            _deliver(producer, [[str(job), 1] for job in undue], task="scoring.score")
    arena.rest(1.0)
    claimed = arena.steps(undue, "claim", since=0)
    arena.promise(not claimed, f"{len(claimed)} jobs were claimed before their time")
    arena.run("UPDATE proving.plain_jobs SET due_at = now() WHERE id = ANY (%s)", undue)


@fault()
def messages_garbled(arena: Arena) -> None:
    """Messages are not valid, name unknown stages, have wrong types or megabytes of content:

    each is refused with a reason, and no worker dies.
    """
    refused_before = arena.crew.said("message_refused")
    batches: Sequence[Any] = (None, 7, [["only an id"]], [["not a uuid", 1]], {"id": 1}, [[[[[1]]]]], "x" * 1024)
    bodies: Sequence[Any] = ("[[], {}]", "null", "{}", "[[1, 2, 3], {}, {}]", b"\xff\x00", "x" * MEGABYTES * 2**20)
    no_messages = (b"\x00 no message at all", b"[]", b"{}")
    with _producer(arena) as producer, arena.redis() as redis:
        for _ in range(TIMES):
            for batch in batches:
                _deliver(producer, batch)
            _deliver(producer, [], task="proving.no_such_stage")
        for body in bodies:
            producer.publish(body, headers=NAMED, content_type="application/json", content_encoding="utf-8")
        _deliver(producer, [[str(uuid.uuid4()), 1]] * 50_000)
        for queue in QUEUES:
            redis.lpush(queue, *no_messages)
    sent = TIMES * (len(batches) + 1) + len(bodies) + len(QUEUES) * len(no_messages)

    def refused() -> int:
        return arena.crew.said("message_refused") - refused_before

    arena.wait(lambda: refused() >= sent, f"all {sent} are refused with a reason", seconds=30.0)
    arena.promise(refused() == sent, f"{refused()} refusals of {sent} bad messages")


@contextmanager
def _producer(arena: Arena) -> Iterator[Producer]:
    with Connection(arena.system.redis_url) as connection, connection.channel() as channel:
        yield Producer(channel, routing_key="proving", auto_declare=False)


def _deliver(producer: Producer, batch: Any, *, task: str = "proving.plain") -> None:
    """Publish a message as the dispatcher writes it."""
    task_id = str(uuid.uuid4())
    headers = {"lang": "py", "task": task, "id": task_id, "root_id": task_id, "parent_id": None, "retries": 0}
    producer.publish([[batch], {}, {}], headers=headers, serializer="json", correlation_id=task_id)
