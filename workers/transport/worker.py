"""The worker role: a Celery worker. Its tasks pass batches to the runner and end.

Celery's main thread consumes messages. A few pool threads pass batches to the one asyncio loop, which runs the jobs.
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
from dataclasses import dataclass, field, replace
from datetime import timedelta
from importlib.metadata import version
from typing import Any
from uuid import UUID

import structlog
from celery import Celery, bootsteps, signals
from celery.exceptions import Reject, SecurityWarning

from models import list_mapped
from models.lifecycle import Job
from workers.runtime.beat.maintenance import actions, run_action
from workers.runtime.database import TRANSACTION_SECONDS, Database, is_database_away
from workers.runtime.enqueue import EnqueueError
from workers.runtime.failpoints import failpoint
from workers.runtime.garbage import reduce_garbage_collection
from workers.runtime.handler.endurance import DEFAULT_PATIENCE, MAX_IDLE_RUNS, MAX_IDLE_TIME
from workers.runtime.handler.errors import describe
from workers.runtime.handler.registry import Registry, UnknownStageError
from workers.runtime.handler.resources import Resources
from workers.runtime.operate.requests import DOOR, EnqueueRequest, put_request, read_request
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
from workers.transport.loop import LoopThread
from workers.transport.names import process_name

log = structlog.get_logger(__name__)

CARRIER_THREADS = 8
MAX_VERSION = 2**31 - 1
# No handler waits inside a transaction. If a transaction is idle this long, its process is frozen.
IDLE_TRANSACTION_SECONDS = 30.0
# A handler that never yields stops its whole process. After one lease its jobs are rescued. After this many leases the
# process ends, and its supervisor starts another.
STUCK_LEASES = 4
# How often a worker reports which provider answers its language model calls.
PROVIDER_REPORT_SECONDS = 5.0
# The exit code of a worker if one of its parts failed.
WORKER_FAILED_EXIT_CODE = 70


ProviderReport = Callable[[], Awaitable[dict[str, Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """The options of a worker process."""

    database_url: str
    redis_url: str
    queues: tuple[str, ...]
    slots: int
    heartbeat_seconds: float
    lease_seconds: float
    grace_seconds: float
    transitions_retention: timedelta
    worker_id: UUID = field(default_factory=uuid.uuid4)
    pool_size: int = 5
    patience: timedelta | None = DEFAULT_PATIENCE
    idle_runs: int = MAX_IDLE_RUNS
    idle_time: timedelta = MAX_IDLE_TIME


class WorkerRuntime:
    """The kernel's part of a worker process. Celery's threads call it."""

    def __init__(
        self,
        app: Celery,
        registry: Registry,
        resources: Resources,
        options: WorkerOptions,
        answering: ProviderReport | None = None,
    ) -> None:
        self.name = process_name("worker")
        self._options = options
        self._id = options.worker_id
        self._database = Database(
            options.database_url,
            changed_by=f"worker:{self._id}",
            pool_size=options.pool_size,
            idle_seconds=IDLE_TRANSACTION_SECONDS,
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
            idle_time=options.idle_time,
        )
        self._answering = answering
        self._registry = registry
        self._letters = DeadLetters(self._database)
        self._actions = actions(transitions_retention=options.transitions_retention)
        self._drained: threading.Event | None = None

    def start(self) -> None:
        """Start the loop and write the first heartbeat. Waits while Postgres is away."""
        self._loop.start()
        self._loop.end_process_if_stuck(STUCK_LEASES * self._options.lease_seconds)
        self._events.start()
        self._loop.submit(self._worker.start()).result()
        if self._answering is not None:
            self._loop.submit(self._report_provider(self._answering))
        self._counting = self._loop.submit(self._letters.run())
        CarefulChannel.refuse = self.refuse
        reduce_garbage_collection()
        log.info("worker_ready", name=self.name, slots=self._options.slots, queues=list(self._options.queues))

    async def _report_provider(self, answering: ProviderReport) -> None:
        """Keep the provider in the worker's row up to date: operators may choose another while it runs."""
        while True:
            with suppress(Exception):  # if Postgres cannot be asked, the last report stays
                async with asyncio.timeout(PROVIDER_REPORT_SECONDS):
                    self._worker.report_provider(await answering())
            await asyncio.sleep(PROVIDER_REPORT_SECONDS)

    def _end_process(self) -> None:
        """Stop this process with SIGTERM and an exit code that says why. Its supervisor starts another."""
        self.exit_code = WORKER_FAILED_EXIT_CODE
        os.kill(os.getpid(), signal.SIGTERM)

    def deliver(self, delivery: Delivery) -> None:
        """Take the batch of a carrier task; return once it is claimed. Refuse a malformed one with a reason."""
        failpoint("carrier.before")
        try:
            tickets = _parse_tickets(*delivery.arguments, **delivery.keywords)
        except (TypeError, ValueError, OverflowError, RecursionError):
            rule = f"a batch of {delivery.task} must be [[id, version], …], and services send {DOOR} instead"
            self._refuse_delivery(delivery, f"{rule}, got {_quote_arguments(delivery)}")
            return
        self._loop.submit(self._worker.accept(delivery.task, tickets)).result()
        failpoint("carrier.after")

    def enqueue(self, delivery: Delivery) -> str | None:
        """Insert the job that a service's Celery message asks for. Refuse a bad request and store it with the reason.

        Waits while Postgres is away. A draining worker returns the message to its queue for another worker.
        """

        async def put(request: EnqueueRequest) -> str:
            async with asyncio.timeout(TRANSACTION_SECONDS), self._database.session() as session:
                job = await session.run_sync(put_request, request)
                failpoint("enqueue_commit.before")
            failpoint("enqueue_commit.after")
            return str(job.id)

        while self._drained is None:
            try:
                request = read_request(delivery.arguments, delivery.keywords, message_id=delivery.message_id)
                if delivery.due_at is not None:  # a countdown or an eta; a due_at of the request itself wins
                    request = replace(request, options={"due_at": delivery.due_at, **request.options})
                return self._loop.submit(put(request)).result()
            except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the message is stored
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
        """Store a refused message with its reason, show it in Flower and log it; call ``then`` once it is stored."""
        name = letter.task or "no task"
        log.warning("message_refused", task=name, queue=letter.queue, reason=without_value(letter.reason))
        self._events.refused(letter)
        kept = self._loop.submit(self._letters.keep(letter))
        kept.add_done_callback(lambda _: then())
        return kept

    def _refuse_delivery(self, delivery: Delivery, reason: str) -> None:
        """Refuse a delivery; return once it is stored, because its message is acknowledged after that."""
        message_id = delivery.message_id if isinstance(delivery.message_id, str) else None
        body = _to_json([delivery.arguments, delivery.keywords, {}])
        about = {"message_id": message_id, "queue": delivery.queue, "content_type": "application/json"}
        self.refuse(DeadLetter(reason, body, delivery.task, content_encoding="utf-8", **about)).result()

    def cancel(self, ids: Sequence[UUID], *, reason: str) -> set[UUID]:
        """Cancel jobs by id in all job tables; return the ids of the cancelled ones."""

        async def everywhere() -> set[UUID]:
            done: set[UUID] = set()
            async with self._database.kernel() as conn:
                for model in list_mapped(Job):
                    done |= await cancel(conn, model, ids, reason=reason)
            for job_id in done:  # cancelled is terminal, so a run of that job here has lost its fence
                self._worker.runs.stop(job_id, "fence")
            return done

        cancelled = self._loop.submit(everywhere()).result(timeout=10)
        for job_id in cancelled:
            self._events.revoked(job_id)
        return cancelled

    def begin_drain(self) -> None:
        """Start draining. May be called from any thread or signal handler; :meth:`wait_drained` waits for the end."""
        if self._drained is None:
            self._drained = threading.Event()
            future = self._loop.submit(self._worker.drain(grace=self._options.grace_seconds))
            future.add_done_callback(lambda _: self._drained.set() if self._drained else None)
            log.info("worker_drains", running=len(self._worker.runs), grace_seconds=self._options.grace_seconds)

    def wait_drained(self) -> None:
        """Wait until no job runs, at most for the grace + 4 s; then close everything."""
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


def _quote_arguments(delivery: Delivery) -> str:
    try:
        return quoted([*delivery.arguments, *delivery.keywords])
    except (ValueError, RecursionError):  # a number of thousands of digits, or nested too deeply
        return "what cannot be shown"


def _to_json(content: object) -> bytes:
    try:
        # Compact, so that the stored message is not longer than the received one.
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    except (ValueError, TypeError, RecursionError):  # nested almost as deep as what was read
        return b""


def _parse_tickets(batch: Any, /) -> list[Ticket]:
    """Return the tickets of a batch; raise one of UNREADABLE_ERRORS if it is not a batch."""
    tickets = [(UUID(str(job_id)), int(version)) for job_id, version in batch]
    if not all(0 < version <= MAX_VERSION for _, version in tickets):
        raise ValueError("a version is a positive integer of four bytes")
    return tickets


class RunnerStep(bootsteps.StartStopStep):
    """Starts the runtime after the worker's pool, and stops it before the pool."""

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
    registry: Registry, resources: Resources, options: WorkerOptions, *, answering: ProviderReport | None = None
) -> tuple[Celery, WorkerRuntime]:
    """Return a Celery application for a worker of ``registry``'s stages, and its runtime."""
    app = create_app(options.redis_url, registry)
    runtime = WorkerRuntime(app, registry, resources, options, answering)
    vars(app)["gristmill_runtime"] = runtime  # a bootstep gets only the app
    add_tasks(app, registry, take={"carrier": runtime.deliver, "door": runtime.enqueue, "maintain": runtime.maintain})
    app.steps["worker"].add(RunnerStep)
    return app, runtime


def run_worker(
    registry: Registry, resources: Resources, options: WorkerOptions, *, answering: ProviderReport | None = None
) -> int:
    """Run a worker until SIGTERM has drained it; return its exit code. ``answering`` returns the provider's report."""
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
        concurrency=CARRIER_THREADS,
        queues=",".join(options.queues),
        without_gossip=True,
        without_mingle=True,
        task_events=False,
        loglevel="WARNING",
        quiet=True,
    )
    worker.start()
    return runtime.exit_code or int(worker.exitcode or 0)
