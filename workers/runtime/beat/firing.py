"""Fire due schedules: each time of a schedule once, in the transaction of the job that it enqueues.

Any number of beats may run. A tick is a row with the key (schedule, time); the beat that inserts it fires it. So a tick
fires once, and no job is enqueued without its tick. Knows no Celery.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy.orm import Session

from workers.runtime.beat.cron import ScheduleError, due_times
from workers.runtime.beat.maintenance import ACTIONS
from workers.runtime.beat.rules import read_payload
from workers.runtime.database import is_database_away, is_locked
from workers.runtime.enqueue import EnqueueError, enqueue
from workers.runtime.handler.errors import describe
from workers.runtime.handler.registry import UnknownStageError
from workers.runtime.refusals import without_value
from workers.runtime.store import schedules as store
from workers.runtime.store.schedules import ScheduleRow

log = structlog.get_logger(__name__)


def add_defaults(session: Session, defaults: Iterable[tuple[str, str, str]]) -> None:
    """Add the schedules (name, action, cron) that do not exist yet; changes and pauses by operators stay."""
    for name, action, cron in defaults:
        store.add(session, {"name": name, "action": action, "cron": cron})


def fire_due(session: Session, *, fired_by: str) -> list[str]:
    """Fire every due tick that no other beat has fired, and return the maintenance actions to publish.

    Jobs are enqueued in this transaction. If a row is invalid in any way, the reason is logged and written to the row,
    and the other rows fire. Only the absence of the database ends the pass.
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
        except Exception as error:  # noqa: BLE001 - _refuse decides by its kind
            _refuse(session, row, error)
    return to_publish


def _refuse(session: Session, row: ScheduleRow, error: Exception) -> None:
    """Log and write why a schedule is skipped; raise ``error`` if the database is away."""
    if is_locked(error):
        log.warning("schedule_waits", schedule=row.name, reason="another beat, or somebody else, holds what it needs")
        return
    if is_database_away(error):
        raise error
    reason = str(error) if isinstance(error, ScheduleError) else describe(error)
    _log_refusal(row.name, reason)
    if reason != row.refusal:
        _write_refusal(session, row.name, reason)


def _log_refusal(name: str, reason: str) -> None:
    log.warning("schedule_refused", schedule=name, error=without_value(reason))


def _write_refusal(session: Session, name: str, reason: str | None) -> None:
    """Write the reason to the row. If another session has locked the row, the next pass writes it."""
    try:
        with session.begin_nested():
            store.note_refusal(session, name, reason)
    except Exception as error:
        if not is_locked(error):
            raise


def _fire_times(
    session: Session, row: ScheduleRow, payload: Mapping[str, Any], due: Sequence[datetime], *, fired_by: str
) -> list[str]:
    """Fire the due times of one schedule; return the maintenance actions to publish."""
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
    store.note_fired(session, row.name, due[-1])
    if refusal is not None:
        _log_refusal(row.name, refusal)
    if refusal != row.refusal:
        store.note_refusal(session, row.name, refusal)
    return to_publish


def _enqueue(session: Session, row: ScheduleRow, payload: Mapping[str, Any], scheduled_for: datetime) -> str | None:
    """Enqueue the schedule's job; if it is refused, return the reason and write it to the tick."""
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
