"""The worker role: a Celery worker whose tasks hand batches to the runner and end.

Celery's main thread consumes; a few pool threads carry batches to the one asyncio loop, where jobs run.
"""

import asyncio
import json
import os
import signal
import threading
import time
import uuid
import warnings
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from importlib.metadata import version
from typing import Any
from uuid import UUID

import structlog
from celery import Celery, bootsteps, signals
from celery.exceptions import Reject, SecurityWarning

from models import concrete
from models.lifecycle import Job
from workers.runtime.beat.maintenance import actions, run_action
from workers.runtime.database import TRANSACTION_SECONDS, Database, is_database_away
from workers.runtime.enqueue import EnqueueError
from workers.runtime.failpoints import failpoint
from workers.runtime.handler.endurance import MAX_IDLE_RUNS, PATIENCE
from workers.runtime.handler.errors import describe
from workers.runtime.handler.registry import Registry, UnknownStageError
from workers.runtime.handler.resources import Resources
from workers.runtime.operate.requests import DOOR, Request, put_request, read_request
from workers.runtime.refusals import quoted, without_value
from workers.runtime.store.claim import Ticket
from workers.runtime.store.intervene import cancel
from workers.runtime.store.processes import WorkerRow
from workers.runtime.worker.dead_letters import DeadLetter, DeadLetters
from workers.runtime.worker.process import Worker
from workers.transport import control  # noqa: F401 - importing it registers the remote control command
from workers.transport.app import Delivery, add_tasks, create_app, queue_names
from workers.transport.consumer import CarefulConsumer
from workers.transport.envelopes import CarefulChannel
from workers.transport.events import EventStream
from workers.transport.loop import LoopThread, spare_the_collector
from workers.transport.names import process_name

log = structlog.get_logger(__name__)

CARRIERS = 8
VERSIONS = 2**31
# A handler waits for nobody within a transaction: one silent for so long is of a process that froze.
IDLE_SECONDS = 30.0
# A handler that never yields silences its whole process: the jobs are rescued after one lease, the process is of no
# more use to anybody. Well after that it ends, for its supervisor to start another.
STUCK_LEASES = 4
# How often a worker looks who answers its language model calls, to report it.
REPORT_SECONDS = 5.0
# The exit code of a worker a part of which failed.
FAILED = 70


Report = Callable[[], Awaitable[dict[str, Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """What a worker process is told at its start."""

    database_url: str
    redis_url: str
    queues: tuple[str, ...]
    slots: int
    heartbeat_seconds: float
    lease_seconds: float
    grace_seconds: float
    transitions_retention: timedelta
    pool_size: int = 5
    patience: timedelta = PATIENCE
    idle_runs: int = MAX_IDLE_RUNS


class WorkerRuntime:
    """The kernel's half of a worker process, reachable from Celery's threads."""

    def __init__(
        self,
        app: Celery,
        registry: Registry,
        resources: Resources,
        options: WorkerOptions,
        answering: Report | None = None,
    ) -> None:
        self.name = process_name("worker")
        self._options = options
        self._id = uuid.uuid4()
        self._database = Database(
            options.database_url,
            changed_by=f"worker:{self._id}",
            pool_size=options.pool_size,
            idle_seconds=IDLE_SECONDS,
        )
        self._events = EventStream(app, self.name, registry)
        self._resources = resources
        self._loop = LoopThread("jobs")
        self.exit_code = 0
        row = WorkerRow(
            id=self._id,
            name=self.name,
            queues=options.queues,
            slots=options.slots,
            lease_seconds=options.lease_seconds,
            version=version("gristmill"),
        )
        self._worker = Worker(
            self._database,
            registry,
            row,
            resources=resources,
            events=self._events,
            heartbeat_seconds=options.heartbeat_seconds,
            failed=self._end_process,
            patience=options.patience,
            idle_runs=options.idle_runs,
        )
        self._answering = answering
        self._registry = registry
        self._letters = DeadLetters(self._database)
        self._actions = actions(transitions_retention=options.transitions_retention)
        self._drained: threading.Event | None = None

    def start(self) -> None:
        """Start the loop and show the first sign of life; waits while Postgres is away."""
        self._loop.start()
        self._loop.end_process_if_stuck(STUCK_LEASES * self._options.lease_seconds)
        self._events.start()
        self._loop.submit(self._worker.start()).result()
        if self._answering is not None:
            self._loop.submit(self._tell_who_answers(self._answering))
        self._counting = self._loop.submit(self._letters.run())
        CarefulChannel.refuse = self.refuse
        spare_the_collector()
        log.info("worker_ready", name=self.name, slots=self._options.slots, queues=list(self._options.queues))

    async def _tell_who_answers(self, answering: Report) -> None:
        """Keep the worker's row saying who answers its calls: operators may choose another while it runs."""
        while True:
            with suppress(Exception):  # Postgres is away, or not asked for its settings: what was said last stands
                async with asyncio.timeout(REPORT_SECONDS):
                    self._worker.report_provider(await answering())
            await asyncio.sleep(REPORT_SECONDS)

    def _end_process(self) -> None:
        """Ask this process to stop as its supervisor would, with a status that says why: another takes its place."""
        self.exit_code = FAILED
        os.kill(os.getpid(), signal.SIGTERM)

    def deliver(self, delivery: Delivery) -> None:
        """Take one batch off a carrier task; return once it is claimed. A malformed one is refused, with a reason."""
        failpoint("carrier.before")
        try:
            tickets = _tickets(*delivery.arguments, **delivery.keywords)
        except (TypeError, ValueError, OverflowError, RecursionError):
            rule = f"a batch of {delivery.task} must be [[id, version], …], and services send {DOOR} instead"
            self._refuse_delivery(delivery, f"{rule}, got {_shown(delivery)}")
            return
        self._loop.submit(self._worker.accept(delivery.task, tickets)).result()
        failpoint("carrier.after")

    def enqueue(self, delivery: Delivery) -> str | None:
        """Put in the row that a service's Celery message asks for; a bad request is refused and kept with the reason.

        Waits as long as Postgres is away; a draining worker puts the message back for another.
        """

        async def put(request: Request) -> str:
            async with asyncio.timeout(TRANSACTION_SECONDS), self._database.session() as session:
                job = await session.run_sync(put_request, request)
                failpoint("enqueue_commit.before")
            failpoint("enqueue_commit.after")
            return str(job.id)

        while self._drained is None:
            try:
                request = read_request(delivery.arguments, delivery.keywords, message_id=delivery.message_id)
                if delivery.due_at is not None:  # a countdown or an eta; a due_at of the request itself counts first
                    request = replace(request, options={"due_at": delivery.due_at, **request.options})
                return self._loop.submit(put(request)).result()
            except Exception as error:  # noqa: BLE001 - whatever is wrong with it, its message is kept
                if not is_database_away(error):
                    ours = isinstance(error, (EnqueueError, UnknownStageError))
                    self._refuse_delivery(delivery, str(error) if ours else describe(error))
                    return None
                log.warning("enqueue_waits_for_database", error=describe(error))
                time.sleep(1.0)
        raise Reject("the worker is draining", requeue=True)

    def maintain(self, delivery: Delivery) -> None:
        """Run one maintenance action to its end."""
        action = delivery.arguments[0] if len(delivery.arguments) == 1 and not delivery.keywords else None
        if not isinstance(action, str) or action not in self._actions:
            self._refuse_delivery(delivery, f"action must be one of {', '.join(self._actions)}, got {quoted(action)}")
            return
        self._loop.submit(run_action(self._database, self._actions[action], action)).result()

    def refuse(self, letter: DeadLetter, *, then: Callable[[], None] = lambda: None) -> "Future[None]":
        """Keep a refused message with its reason, show it in Flower and log it; call ``then`` once it is kept."""
        name = letter.task or "no task"
        log.warning("message_refused", task=name, queue=letter.queue, reason=without_value(letter.reason))
        self._events.refused(letter)
        kept = self._loop.submit(self._letters.keep(letter))
        kept.add_done_callback(lambda _: then())
        return kept

    def _refuse_delivery(self, delivery: Delivery, reason: str) -> None:
        """Refuse what a task was given; return once it is kept, for then its message is acknowledged."""
        message_id = delivery.message_id if isinstance(delivery.message_id, str) else None
        body = _json([delivery.arguments, delivery.keywords, {}])
        about = {"message_id": message_id, "queue": delivery.queue, "content_type": "application/json"}
        self.refuse(DeadLetter(reason, body, delivery.task, content_encoding="utf-8", **about)).result()

    def cancel(self, ids: Sequence[UUID], *, reason: str) -> set[UUID]:
        """Cancel durable jobs by id, in whatever table they are; return those that were cancelled."""

        async def everywhere() -> set[UUID]:
            done: set[UUID] = set()
            async with self._database.kernel() as conn:
                for model in concrete(Job):
                    done |= await cancel(conn, model, ids, reason=reason)
            for job_id in done:  # cancelled is terminal: whatever runs here under that id has lost its fence
                self._worker.runs.stop(job_id, "fence")
            return done

        cancelled = self._loop.submit(everywhere()).result(timeout=10)
        for job_id in cancelled:
            self._events.revoked(job_id)
        return cancelled

    def begin_drain(self) -> None:
        """Start draining now, from any thread or a signal handler's caller; :meth:`wait_drained` waits for its end."""
        if self._drained is None:
            self._drained = threading.Event()
            future = self._loop.submit(self._worker.drain(grace=self._options.grace_seconds))
            future.add_done_callback(lambda _: self._drained.set() if self._drained else None)
            log.info("worker_drains", running=len(self._worker.runs), grace_seconds=self._options.grace_seconds)

    def wait_drained(self) -> None:
        """Return when nothing runs any more, within the grace + 4 s; then close everything."""
        self.begin_drain()
        assert self._drained is not None
        self._drained.wait(self._options.grace_seconds + 4)
        CarefulChannel.refuse = None
        self._events.stop()
        for closing in (self._letters.flush(), self._resources.aclose(), self._database.close()):
            with suppress(Exception):  # the process ends either way
                self._loop.submit(closing).result(timeout=2)
        self._loop.stop()
        log.info("worker_stopped", name=self.name)


def _shown(delivery: Delivery) -> str:
    try:
        return quoted([*delivery.arguments, *delivery.keywords])
    except (ValueError, RecursionError):  # a number of thousands of digits, or nested without end
        return "what cannot be shown"


def _json(content: object) -> bytes:
    try:
        # As short as it came: what is kept must not be longer than the door takes.
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    except (ValueError, TypeError, RecursionError):  # nested almost as deep as what was read
        return b""


def _tickets(batch: Any, /) -> list[Ticket]:
    """Return what a message brought as tickets; raise for anything that is no batch, as UNREADABLE has it."""
    tickets = [(UUID(str(job_id)), int(version)) for job_id, version in batch]
    if not all(0 < version < VERSIONS for _, version in tickets):
        raise ValueError("a version is a positive integer of four bytes")
    return tickets


class RunnerStep(bootsteps.StartStopStep):
    """Starts the runtime with the worker, after the pool, and ends it before the pool goes."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, **_: Any) -> None:
        self._runtime: WorkerRuntime = parent.app.gristmill_runtime
        parent.gristmill = self._runtime

    def start(self, parent: Any) -> None:  # noqa: ARG002 - Celery's signature
        self._runtime.start()

    def stop(self, parent: Any) -> None:  # noqa: ARG002
        self._runtime.wait_drained()

    def terminate(self, parent: Any) -> None:  # noqa: ARG002
        self._runtime.wait_drained()


def create_worker_app(
    registry: Registry, resources: Resources, options: WorkerOptions, *, answering: Report | None = None
) -> tuple[Celery, WorkerRuntime]:
    """Return a Celery application whose worker runs ``registry``'s stages, and the runtime behind it."""
    app = create_app(options.redis_url, registry)
    runtime = WorkerRuntime(app, registry, resources, options, answering)
    vars(app)["gristmill_runtime"] = runtime  # a bootstep is given nothing but the app
    add_tasks(app, registry, take={"carrier": runtime.deliver, "door": runtime.enqueue, "maintain": runtime.maintain})
    app.steps["worker"].add(RunnerStep)
    return app, runtime


def run_worker(
    registry: Registry, resources: Resources, options: WorkerOptions, *, answering: Report | None = None
) -> int:
    """Run a worker until SIGTERM has drained it; return its exit code. ``answering`` tells who answers its calls."""
    app, runtime = create_worker_app(registry, resources, options, answering=answering)
    known = queue_names(registry)
    unknown = sorted(set(options.queues) - set(known))
    if unknown:
        raise ValueError(f"queues must be among {', '.join(known)}, got {', '.join(unknown)}")

    @signals.worker_shutting_down.connect(weak=False)
    def drain(**_: Any) -> None:
        runtime.begin_drain()

    # The warning is about pickle; this worker accepts JSON only.
    warnings.filterwarnings("ignore", category=SecurityWarning, module="celery.platforms")
    worker = app.Worker(
        hostname=runtime.name,
        pool="threads",
        consumer_cls=CarefulConsumer,
        concurrency=CARRIERS,
        queues=",".join(options.queues),
        without_gossip=True,
        without_mingle=True,
        task_events=False,
        loglevel="WARNING",
        quiet=True,
    )
    worker.start()
    return runtime.exit_code or int(worker.exitcode or 0)
