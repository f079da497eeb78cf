"""Celery beat with the rows of ``runtime.schedules`` as its entries.

Any number of beats may run. :mod:`workers.runtime.beat` decides what is due and what fires.
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
from workers.runtime.connections import changed_by_setting
from workers.runtime.database import SERVER_KEEPALIVE, pinned_engine
from workers.runtime.failpoints import failpoint
from workers.runtime.handler.errors import describe
from workers.runtime.handler.registry import Registry
from workers.runtime.store.partitions import make_and_drop_partitions
from workers.transport.app import MAINTAIN, create_app
from workers.transport.connection_watch import ConnectionWatch
from workers.transport.names import process_name

log = structlog.get_logger(__name__)

TICK_SECONDS = 1
# lock_timeout: a schedule that another session holds is left for a later tick.
# idle_in_transaction_session_timeout: a beat that freezes in a transaction releases its locks.
SESSION_TIMEOUTS = "-c lock_timeout=2s -c idle_in_transaction_session_timeout=10s"
# If Postgres does not answer within this time, the tick ends.
TICK_TIMEOUT_SECONDS = 15.0
# Beat itself runs this action, because workers may not create or drop partitions of the history.
PARTITIONS_ACTION = "partitions"


class RowScheduler(Scheduler):
    """Beat's scheduler. Its in-memory schedule stays empty; each tick reads the rows."""

    engine: Engine
    watch: ConnectionWatch
    process: str
    transitions_retention: timedelta

    def setup_schedule(self) -> None:
        """Nothing to load: rows are read at each tick."""

    def tick(self, *_: Any, **__: Any) -> float:
        """Fire what is due; return the seconds to the next tick. Without Postgres or Redis, log it and go on."""
        try:
            with self.watch.shut_down_after(TICK_TIMEOUT_SECONDS), Session(self.engine) as session, session.begin():
                published = fire_due(session, fired_by=self.process)
                failpoint("tick.before")
            failpoint("tick.after")
            for action in published:
                if action == PARTITIONS_ACTION:
                    self._keep_partitions()
                    continue
                # If this message is lost, the action runs at its next time: every action checks its own condition.
                self.app.send_task(MAINTAIN, args=[action], queue=SYSTEM_QUEUE, retry=False)
        except Exception as error:  # noqa: BLE001 - beat goes on whatever fails
            log.warning("beat_tick_failed", error=describe(error))
            time.sleep(random.random())  # noqa: S311 - jitter
        return TICK_SECONDS

    def _keep_partitions(self) -> None:
        """Create the history's partitions for the next months and drop old ones. A failure is retried next time."""
        try:
            with self.watch.shut_down_after(TICK_TIMEOUT_SECONDS), Session(self.engine) as session, session.begin():
                _, dropped = make_and_drop_partitions(session, ahead=MONTHS_AHEAD, retention=self.transitions_retention)
        except Exception as error:  # noqa: BLE001 - the other actions must still be sent
            log.warning("partitions_failed", error=describe(error))
        else:
            log.info("maintenance_done", action=PARTITIONS_ACTION, dropped=dropped)


class PatientBeat(Beat):
    """A beat that stops after its current tick.

    Celery's own handler raises SystemExit at once. If that happens during a statement, the driver's clean-up fails,
    its error replaces SystemExit, and the beat does not stop.
    """

    def install_sync_handler(self, service: Any) -> None:
        """Let SIGTERM and SIGINT end the loop between two ticks."""

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
    """Run one beat until SIGTERM; return its exit code. Waits for Postgres first."""
    app: Celery = create_app(redis_url, registry)
    name = process_name("beat")
    settings = f"{changed_by_setting(f'beat:{name}')} {SESSION_TIMEOUTS} {SERVER_KEEPALIVE}"
    engine = pinned_engine(
        database_url, settings=settings, application_name=f"beat:{name}"[:63], pool_pre_ping=True, pool_size=1
    )
    watch = ConnectionWatch(engine)  # before the first connection
    _write_defaults(engine, watch, defaults)
    # Beat takes a class and creates the instance itself, so the arguments are class attributes.
    attributes = {"engine": engine, "watch": watch, "process": name, "transitions_retention": transitions_retention}
    scheduler: Any = type("GristmillScheduler", (RowScheduler,), attributes)
    log.info("beat_ready", name=name)
    PatientBeat(app=app, scheduler=scheduler, max_interval=TICK_SECONDS, loglevel="WARNING", quiet=True).run()
    return 0


def _write_defaults(engine: Engine, watch: ConnectionWatch, defaults: Iterable[DefaultSchedule]) -> None:
    defaults = tuple(defaults)
    while True:
        try:
            with watch.shut_down_after(TICK_TIMEOUT_SECONDS), Session(engine) as session, session.begin():
                add_defaults(session, defaults)
        except Exception as error:  # noqa: BLE001 - the database is not reachable or not migrated yet
            log.warning("beat_waits_for_database", error=describe(error))
            time.sleep(1 + random.random())  # noqa: S311
        else:
            return
