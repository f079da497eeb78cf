"""Celery beat on rows: a scheduler whose entries are ``runtime.schedules``.

Any number of beats may run. What is due, and what fires, is decided in :mod:`workers.runtime.beat`.
"""

import random
import time
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import structlog
from celery import Celery, platforms
from celery.apps.beat import Beat
from celery.beat import Scheduler
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from config.celery import SYSTEM_QUEUE
from config.schedules import DefaultSchedule
from workers.runtime.beat.firing import add_defaults, fire_due
from workers.runtime.beat.maintenance import MONTHS_AHEAD
from workers.runtime.connections import named
from workers.runtime.database import SERVER_KEEPALIVE, pinned_engine
from workers.runtime.failpoints import failpoint
from workers.runtime.handler.errors import describe
from workers.runtime.handler.registry import Registry
from workers.runtime.store.partitions import make_and_drop_partitions
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
                _, dropped = make_and_drop_partitions(session, ahead=MONTHS_AHEAD, retention=self.transitions_retention)
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
