"""Celery beat on rows: a scheduler whose entries are ``runtime.schedules``.

Any number of beats may run. A tick is a row keyed by schedule and time; who inserts it fires it, in the same
transaction as the job it enqueues, so a tick fires once and a job is never enqueued without its tick.
"""

import random
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import structlog
from celery import Celery, platforms
from celery.apps.beat import Beat
from celery.beat import Scheduler
from sqlalchemy import Engine, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DataError
from sqlalchemy.orm import Session

from config.celery import SYSTEM_QUEUE
from config.schedules import DefaultSchedule
from models.runtime import Schedule, Tick
from workers.runtime.connections import named
from workers.runtime.database import SERVER_KEEPALIVE, is_database_away, is_locked, pinned_engine
from workers.runtime.enqueue import EnqueueError, enqueue
from workers.runtime.errors import describe
from workers.runtime.failpoints import failpoint
from workers.runtime.maintenance import MONTHS_AHEAD
from workers.runtime.registry import Registry, UnknownStageError
from workers.runtime.schedules import ScheduleError, due_times
from workers.transport.app import create_app
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

    Jobs are enqueued in this transaction. A row that cannot be understood, whatever is wrong with it, is logged and
    passed over: the others fire. Only a database that is away ends the look.
    """
    now = session.scalar(select(func.now()))
    assert now is not None
    to_publish: list[str] = []
    for name, schedule in _enabled(session):
        try:
            last = schedule.last_scheduled_for or schedule.created_at
            due = due_times(schedule.cron, schedule.timezone, last=last, now=now, catch_up=schedule.catch_up)
            if due:
                with session.begin_nested():
                    to_publish += _fire_times(session, schedule, due, fired_by=fired_by)
        except Exception as error:  # noqa: BLE001 - sorted below
            _refuse(name, error)
    return to_publish


def _enabled(session: Session) -> Iterator[tuple[str, Schedule]]:
    """Yield every enabled schedule, read by one statement; one by one where a row cannot even be read."""
    rows = select(Schedule).where(Schedule.enabled)
    try:
        with session.begin_nested():
            found = [(schedule.name, schedule) for schedule in session.scalars(rows)]
    except DataError:  # a time of infinity, written in psql
        for name in session.scalars(select(Schedule.name).where(Schedule.enabled)).all():
            try:
                with session.begin_nested():
                    schedule = session.get_one(Schedule, name)
            except Exception as error:  # noqa: BLE001 - sorted below
                _refuse(name, error)
            else:
                yield name, schedule
    else:
        yield from found


def _refuse(name: str, error: Exception) -> None:
    """Log why a schedule is passed over, without quoting its row; raise what is the database's absence."""
    if is_locked(error):
        log.warning("schedule_waits", schedule=name, reason="another beat, or somebody else, holds what it needs")
        return
    if is_database_away(error):
        raise error
    log.warning(
        "schedule_refused",
        schedule=name,
        error=str(error) if isinstance(error, ScheduleError) else type(error).__name__,
    )


def _fire_times(session: Session, schedule: Schedule, due: Sequence[datetime], *, fired_by: str) -> list[str]:
    """Fire one schedule's due times."""
    to_publish: list[str] = []
    for scheduled_for in due:
        row = insert(Tick).values(schedule=schedule.name, scheduled_for=scheduled_for, fired_by=fired_by)
        won = session.execute(row.on_conflict_do_nothing().returning(Tick.schedule)).first()
        if won:
            to_publish += _fire(session, schedule, scheduled_for)
    session.execute(
        update(Schedule)
        .where(Schedule.name == schedule.name)
        .values(last_scheduled_for=func.greatest(Schedule.last_scheduled_for, due[-1]))
    )
    return to_publish


def _fire(session: Session, schedule: Schedule, scheduled_for: Any) -> list[str]:
    """Enqueue the schedule's job, or name its action for publishing after the commit."""
    if schedule.action is not None:
        return [schedule.action]
    assert schedule.stage is not None
    key = f"schedule:{schedule.name}:{scheduled_for.isoformat()}"
    try:
        with session.begin_nested():
            job = enqueue(session, schedule.stage, schedule.payload, idempotency_key=key)
    except (EnqueueError, UnknownStageError) as error:
        log.warning("schedule_refused", schedule=schedule.name, error=str(error).partition(", got ")[0])
        return []
    session.execute(
        update(Tick).where(Tick.schedule == schedule.name, Tick.scheduled_for == scheduled_for).values(job_id=job.id)
    )
    log.info("schedule_fired", schedule=schedule.name, job_id=str(job.id))
    return []


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
                self.app.send_task("gristmill.maintain", args=[action], queue=SYSTEM_QUEUE, retry=False)
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
