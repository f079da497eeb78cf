"""Celery beat on rows: a scheduler whose entries are ``runtime.schedules``.

Any number of beats may run. A tick is a row keyed by schedule and time; who inserts it fires it, in the same
transaction as the job it enqueues, so a tick fires once and a job is never enqueued without its tick.
"""

import random
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import structlog
from celery import Celery, platforms
from celery.apps.beat import Beat
from celery.beat import Scheduler
from sqlalchemy import Engine, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from config.celery import SYSTEM_QUEUE
from config.schedules import DefaultSchedule
from models.runtime import Schedule
from workers.runtime.beat.cron import ScheduleError, due_times
from workers.runtime.beat.maintenance import ACTIONS, MONTHS_AHEAD
from workers.runtime.connections import named
from workers.runtime.database import SERVER_KEEPALIVE, is_database_away, is_locked, pinned_engine
from workers.runtime.enqueue import EnqueueError, enqueue
from workers.runtime.failpoints import failpoint
from workers.runtime.handler.errors import describe
from workers.runtime.handler.registry import Registry, UnknownStageError
from workers.runtime.operate.schedules import read_payload
from workers.runtime.refusals import without_value
from workers.runtime.store import schedules as store
from workers.runtime.store.schedules import ScheduleRow
from workers.transport.app import MAINTAIN, create_app
from workers.transport.line import Line
from workers.transport.names import process_name

log = structlog.get_logger(__name__)

TICK_SECONDS = 1
# A schedule that somebody holds is left for a later look; a beat that froze within one keeps it no longer than this.
WAITS = "-c lock_timeout=2s -c idle_in_transaction_session_timeout=10s"
# Postgres gives an answer within this time, or the look is over.
ANSWER_SECONDS = 15.0
# Done by beat itself, with rights that a worker does not have: to make the months of the history, and to drop old ones.
PARTITIONS = "partitions"


def add_defaults(session: Session, defaults: Iterable[DefaultSchedule]) -> None:
    """Write the schedules that are not there yet; what operators changed or paused stays."""
    for schedule in defaults:
        row = insert(Schedule).values(name=schedule.name, action=schedule.action, cron=schedule.cron)
        session.execute(row.on_conflict_do_nothing(index_elements=[Schedule.name]))


def fire_due(session: Session, *, fired_by: str) -> list[str]:
    """Fire every due tick that no other beat has fired, and return the maintenance actions to publish.

    Jobs are enqueued in this transaction. A row that cannot be understood, whatever is wrong with it, keeps the reason,
    is logged and passed over: the others fire. Only a database that is away ends the look.
    """
    now = store.now(session)
    to_publish: list[str] = []
    for row in store.read_all(session, enabled_only=True):
        try:
            payload = read_payload(row.payload)
            last = row.begins or now
            due = due_times(row.cron, row.timezone, last=last, now=now, catch_up=row.catch_up)
            if due:
                with session.begin_nested():
                    to_publish += _fire_times(session, row, payload, due, fired_by=fired_by)
        except Exception as error:  # noqa: BLE001 - sorted below
            _refuse(session, row, error)
    return to_publish


def _refuse(session: Session, row: ScheduleRow, error: Exception) -> None:
    """Keep and log why a schedule is passed over; raise what is the database's absence."""
    if is_locked(error):
        log.warning("schedule_waits", schedule=row.name, reason="another beat, or somebody else, holds what it needs")
        return
    if is_database_away(error):
        raise error
    reason = str(error) if isinstance(error, ScheduleError) else describe(error)
    _log_refusal(row.name, reason)
    if reason != row.refusal:
        _keep_refusal(session, row.name, reason)


def _log_refusal(name: str, reason: str) -> None:
    log.warning("schedule_refused", schedule=name, error=without_value(reason))


def _keep_refusal(session: Session, name: str, reason: str | None) -> None:
    """Write the reason to the row, unless somebody holds it: the next look does."""
    try:
        with session.begin_nested():
            store.note_refusal(session, name, reason)
    except Exception as error:
        if not is_locked(error):
            raise


def _fire_times(
    session: Session, row: ScheduleRow, payload: Mapping[str, Any], due: Sequence[datetime], *, fired_by: str
) -> list[str]:
    """Fire one schedule's due times."""
    to_publish: list[str] = []
    refusal: str | None = None
    for scheduled_for in due:
        if not store.take_tick(session, row.name, scheduled_for, fired_by=fired_by):
            continue
        if row.action is not None:
            if row.action in ACTIONS:
                to_publish.append(row.action)
            else:
                refusal = f"action must be one of {', '.join(ACTIONS)}, got {row.action!r}"
                store.end_tick(session, row.name, scheduled_for, refusal=refusal)
        else:
            refusal = _enqueue(session, row, payload, scheduled_for)
    store.move_on(session, row.name, due[-1])
    if refusal is not None:
        _log_refusal(row.name, refusal)
    if refusal != row.refusal:
        store.note_refusal(session, row.name, refusal)
    return to_publish


def _enqueue(session: Session, row: ScheduleRow, payload: Mapping[str, Any], scheduled_for: datetime) -> str | None:
    """Enqueue the schedule's job; return why that cannot be, which the tick keeps too."""
    key = f"schedule:{row.name}:{scheduled_for.isoformat()}"
    try:
        with session.begin_nested():
            job = enqueue(session, row.stage or "", payload, idempotency_key=key)
    except Exception as error:
        if is_database_away(error):
            raise
        reason = str(error) if isinstance(error, (EnqueueError, UnknownStageError)) else describe(error)
        store.end_tick(session, row.name, scheduled_for, refusal=reason)
        return reason
    store.end_tick(session, row.name, scheduled_for, job_id=job.id)
    log.info("schedule_fired", schedule=row.name, job_id=str(job.id))
    return None


class RowScheduler(Scheduler):
    """Beat's scheduler. Its in-memory schedule stays empty; each tick reads the rows."""

    engine: Engine
    line: Line
    process: str
    transitions_retention: timedelta

    def setup_schedule(self) -> None:
        """Nothing to load: rows are read at each tick."""

    def tick(self, *_: Any, **__: Any) -> float:
        """Fire what is due and return the seconds to the next look; an absent Postgres or Redis is waited out."""
        try:
            with self.line.cut_after(ANSWER_SECONDS), Session(self.engine) as session, session.begin():
                published = fire_due(session, fired_by=self.process)
                failpoint("tick.before")
            failpoint("tick.after")
            for action in published:
                if action == PARTITIONS:
                    self._keep_partitions()
                    continue
                # Lost on the road, it is done at its next time: every action repeats its condition.
                self.app.send_task(MAINTAIN, args=[action], queue=SYSTEM_QUEUE, retry=False)
        except Exception as error:  # noqa: BLE001 - beat goes on whatever is away
            log.warning("beat_tick_failed", error=describe(error))
            time.sleep(random.random())  # noqa: S311 - jitter
        return TICK_SECONDS

    def _keep_partitions(self) -> None:
        """Make the next months of the history and drop old ones. If it fails, it is done at its next time."""
        try:
            with self.line.cut_after(ANSWER_SECONDS), Session(self.engine) as session, session.begin():
                session.execute(text("SELECT runtime.ensure_transition_partitions(:ahead)"), {"ahead": MONTHS_AHEAD})
                dropped = session.scalar(
                    text("SELECT runtime.drop_transition_partitions(:age)"), {"age": self.transitions_retention}
                )
        except Exception as error:  # noqa: BLE001 - the other actions must not wait for it
            log.warning("partitions_failed", error=describe(error))
        else:
            log.info("maintenance_done", action=PARTITIONS, dropped=dropped)


class PatientBeat(Beat):
    """A beat that stops after the look under way.

    Celery's own raises SystemExit wherever the process is: within a statement, the driver's clean-up fails, its error
    takes the place of the exit, and the beat goes on as if nobody had asked.
    """

    def install_sync_handler(self, service: Any) -> None:
        """Have SIGTERM and SIGINT end the loop between two looks."""

        def stop(*_: object) -> None:
            service.stop()

        platforms.signals.update(SIGTERM=stop, SIGINT=stop)


def run_beat(
    registry: Registry,
    *,
    database_url: str,
    redis_url: str,
    defaults: Iterable[DefaultSchedule],
    transitions_retention: timedelta,
) -> int:
    """Run one beat until SIGTERM; return its exit code. Waits for Postgres at its start."""
    app: Celery = create_app(redis_url, registry)
    name = process_name("beat")
    settings = f"{named(f'beat:{name}')} {WAITS} {SERVER_KEEPALIVE}"
    engine = pinned_engine(
        database_url, settings=settings, application_name=f"beat:{name}"[:63], pool_pre_ping=True, pool_size=1
    )
    line = Line(engine)  # before the first connection
    _write_defaults(engine, line, defaults)
    # Beat takes a class and makes it itself: what it needs travels as class attributes.
    told = {"engine": engine, "line": line, "process": name, "transitions_retention": transitions_retention}
    scheduler: Any = type("GristmillScheduler", (RowScheduler,), told)
    log.info("beat_ready", name=name)
    PatientBeat(app=app, scheduler=scheduler, max_interval=TICK_SECONDS, loglevel="WARNING", quiet=True).run()
    return 0


def _write_defaults(engine: Engine, line: Line, defaults: Iterable[DefaultSchedule]) -> None:
    defaults = tuple(defaults)
    while True:
        try:
            with line.cut_after(ANSWER_SECONDS), Session(engine) as session, session.begin():
                add_defaults(session, defaults)
        except Exception as error:  # noqa: BLE001 - not there yet, or not migrated yet
            log.warning("beat_waits_for_database", error=describe(error))
            time.sleep(1 + random.random())  # noqa: S311
        else:
            return
