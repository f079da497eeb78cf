"""The worker role: a Celery worker whose tasks hand batches to the runner and end.

Celery's main thread consumes; a few pool threads carry batches to the one asyncio loop, where jobs run.
"""

import asyncio
import os
import signal
import threading
import time
import uuid
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import structlog
from celery import Celery, bootsteps, signals
from celery.exceptions import Reject, SecurityWarning

from models.lifecycle import Job
from workers.runtime.database import TRANSACTION_SECONDS, Database, is_database_away
from workers.runtime.endurance import PATIENCE
from workers.runtime.enqueue import EnqueueError, enqueue
from workers.runtime.errors import describe
from workers.runtime.failpoints import failpoint
from workers.runtime.maintenance import actions, concrete, run_action
from workers.runtime.ports import LanguageModel
from workers.runtime.registry import Registry, UnknownStageError
from workers.runtime.runner import Runner
from workers.runtime.store.claim import Ticket
from workers.runtime.store.intervene import cancel
from workers.runtime.store.processes import WorkerRow
from workers.runtime.watch import Watch
from workers.transport import control  # noqa: F401 - importing it registers the remote control command
from workers.transport.app import add_tasks, create_app, queue_names
from workers.transport.consumer import CarefulConsumer
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
# The exit code of a worker a part of which failed.
FAILED = 70


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


class WorkerRuntime:
    """The kernel's half of a worker process, reachable from Celery's threads."""

    def __init__(self, app: Celery, registry: Registry, llm: LanguageModel, options: WorkerOptions) -> None:
        self.name = process_name("worker")
        self._options = options
        self._id = uuid.uuid4()
        self._database = Database(
            options.database_url,
            changed_by=f"worker:{self._id}",
            pool_size=options.pool_size,
            idle_seconds=IDLE_SECONDS,
        )
        self._events = EventStream(app, self.name)
        self._llm = llm
        self._loop = LoopThread("jobs")
        self._runner = Runner(
            self._database,
            registry,
            worker_id=self._id,
            slots=options.slots,
            llm=llm,
            events=self._events,
            failed=self._end_process,
            patience=options.patience,
        )
        self.exit_code = 0
        row = WorkerRow(
            id=self._id,
            name=self.name,
            queues=options.queues,
            slots=options.slots,
            lease_seconds=options.lease_seconds,
        )
        self._watch = Watch(self._database, row, heartbeat_seconds=options.heartbeat_seconds)
        self._registry = registry
        self._actions = actions(transitions_retention=options.transitions_retention)
        self._drained: threading.Event | None = None

    def start(self) -> None:
        """Start the loop and show the first sign of life; waits while Postgres is away."""
        self._loop.start()
        self._loop.end_process_if_stuck(STUCK_LEASES * self._options.lease_seconds)
        self._events.start()
        self._loop.submit(self._runner.start(self._watch)).result()
        spare_the_collector()
        log.info("worker_ready", name=self.name, slots=self._options.slots, queues=list(self._options.queues))

    def _end_process(self) -> None:
        """Ask this process to stop as its supervisor would, with a status that says why: another takes its place."""
        self.exit_code = FAILED
        os.kill(os.getpid(), signal.SIGTERM)

    def deliver(self, stage: str, batch: object) -> None:
        """Take one batch off a carrier task; return once it is claimed. A malformed one is refused, with a reason."""
        try:
            tickets = _tickets(batch)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            log.warning("message_refused", stage=stage, rule="a batch is [[id, version], …]", error=str(error)[:200])
            return
        self._loop.submit(self._runner.accept(stage, tickets)).result()

    def enqueue(self, stage: str, payload: Mapping[str, Any], **options: Any) -> str | None:
        """Put in the row that a service's Celery message asks for; a bad request is refused with a logged reason.

        Waits as long as Postgres is away; a draining worker puts the message back for another.
        """

        async def put() -> str:
            async with asyncio.timeout(TRANSACTION_SECONDS), self._database.session() as session:
                job = await enqueue(session, stage, payload, **options)
                failpoint("enqueue_commit.before")
            failpoint("enqueue_commit.after")
            return str(job.id)

        while self._drained is None:
            try:
                return self._loop.submit(put()).result()
            except (EnqueueError, UnknownStageError) as error:
                log.warning("enqueue_refused", stage=stage, error=str(error).partition(", got ")[0])
                return None
            except Exception as error:
                if not is_database_away(error):
                    raise
                log.warning("enqueue_waits_for_database", stage=stage, error=describe(error))
                time.sleep(1.0)
        raise Reject("the worker is draining", requeue=True)

    def maintain(self, action: str) -> None:
        """Run one maintenance action to its end."""
        if action not in self._actions:
            log.warning("message_refused", rule=f"an action is one of {sorted(self._actions)}", action=action[:100])
            return
        self._loop.submit(run_action(self._database, self._actions[action], action)).result()

    def cancel(self, ids: Sequence[UUID], *, reason: str) -> set[UUID]:
        """Cancel durable jobs by id, in whatever table they are; return those that were cancelled."""

        async def everywhere() -> set[UUID]:
            done: set[UUID] = set()
            async with self._database.kernel() as conn:
                for model in concrete(Job):
                    done |= await cancel(conn, model, ids, reason=reason)
            for job_id in done:  # cancelled is terminal: whatever runs here under that id has lost its fence
                self._runner.stop_run(job_id, "fence")
            return done

        cancelled = self._loop.submit(everywhere()).result(timeout=10)
        for job_id in cancelled:
            self._events.revoked(job_id)
        return cancelled

    def begin_drain(self) -> None:
        """Start draining now, from any thread or a signal handler's caller; :meth:`wait_drained` waits for its end."""
        if self._drained is None:
            self._drained = threading.Event()
            future = self._loop.submit(self._runner.drain(grace=self._options.grace_seconds, watch=self._watch))
            future.add_done_callback(lambda _: self._drained.set() if self._drained else None)
            log.info("worker_drains", running=len(self._runner.running), grace_seconds=self._options.grace_seconds)

    def wait_drained(self) -> None:
        """Return when nothing runs any more, within the grace + 4 s; then close everything."""
        self.begin_drain()
        assert self._drained is not None
        self._drained.wait(self._options.grace_seconds + 4)
        self._events.stop()
        for closing in (self._llm.aclose(), self._database.close()):
            with suppress(Exception):  # the process ends either way
                self._loop.submit(closing).result(timeout=2)
        self._loop.stop()
        log.info("worker_stopped", name=self.name)


def _tickets(batch: Any) -> list[Ticket]:
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


def create_worker_app(registry: Registry, llm: LanguageModel, options: WorkerOptions) -> tuple[Celery, WorkerRuntime]:
    """Return a Celery application whose worker runs ``registry``'s stages, and the runtime behind it."""
    app = create_app(options.redis_url, registry)
    runtime = WorkerRuntime(app, registry, llm, options)
    vars(app)["gristmill_runtime"] = runtime  # a bootstep is given nothing but the app
    add_tasks(app, registry, deliver=runtime.deliver, enqueue=runtime.enqueue, maintain=runtime.maintain)
    app.steps["worker"].add(RunnerStep)
    return app, runtime


def run_worker(registry: Registry, llm: LanguageModel, options: WorkerOptions) -> int:
    """Run a worker until SIGTERM has drained it; return its exit code."""
    app, runtime = create_worker_app(registry, llm, options)
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
