"""Checks of the roles that show themselves in Postgres: the dispatcher and the workers."""

from datetime import timedelta

from cli.doctor.check import Check, verdict
from config.celery import SYSTEM_QUEUE
from workers.runtime.database import Raw
from workers.runtime.discovery import BrokenHandlers
from workers.runtime.registry import discover
from workers.runtime.store.read import dispatcher_seen, slots_by_queue

LONGEST_SILENCE = timedelta(seconds=5)


async def dispatcher(conn: Raw) -> Check:
    """Check that one leads, seen within 5 s."""
    seen = await dispatcher_seen(conn)
    found = f"leads, seen {seen.total_seconds():.1f} s ago" if seen is not None else "none has ever led"
    mend = "start one: `gristmill up`, or `gristmill dispatcher`"
    return verdict("dispatcher", found, well=seen is not None and seen < LONGEST_SILENCE, mend=mend)


async def workers(conn: Raw) -> Check:
    """Check that every queue has a living worker."""
    slots = await slots_by_queue(conn)
    try:
        queues = [*sorted({stage.queue for stage in discover().values()}), SYSTEM_QUEUE]
    except BrokenHandlers:
        return Check("workers", "failed", "no worker starts: handlers cannot be loaded", "see the check of handlers")
    missing = [queue for queue in queues if queue not in slots]
    found = ", ".join(f"{queue}: {slots.get(queue, 0)} slots" for queue in queues)
    mend = f"start a worker for {', '.join(missing)}: `gristmill up`, or `gristmill worker`"
    return verdict("workers", found, well=not missing, mend=mend)
