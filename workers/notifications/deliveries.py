"""What owners and operators do with deliveries: list them, look at one with its attempts, send it again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from workers.notifications.message import message_id
from workers.notifications.refusals import CallbackError, NotEnded, UnknownDelivery
from workers.notifications.rules import without_query
from workers.runtime.actor import Actor, acting_on
from workers.runtime.cursors import make_cursor, read_cursor
from workers.runtime.database import Raw
from workers.runtime.refusals import Conflict, Problem, StaleVersion, quoted

STATES = ("pending", "sending", "delivered", "failed", "cancelled")
_SELECT = """
    SELECT d.id, d.event, d.status, d.version, d.endpoint_id, d.owner_id, coalesce(d.url, e.url), d.job_id, d.job_stage,
           d.job_status, d.job_version, d.ended_at, d.attempts, CASE WHEN d.status = 'pending' THEN d.due_at END,
           coalesce(d.error_message, CASE WHEN d.status = 'cancelled' THEN d.change_reason END), d.created_at,
           d.completed_at
      FROM notifications.deliveries AS d LEFT JOIN notifications.endpoints AS e ON e.id = d.endpoint_id"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptView:
    """One attempt. Without an answer ``status`` is None and ``error`` says why."""

    at: datetime | None
    milliseconds: int
    status: int | None
    address: str | None
    error: str | None
    answer: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryView:
    """A delivery. ``destination`` is its URL without the query; None if its endpoint was deleted.

    ``message_id`` is its ``webhook-id``, the same at every attempt. A test of an endpoint has no job. ``attempts`` has
    the newest 30. ``next_attempt_at`` None of a pending one means: now.
    """

    id: UUID
    message_id: str
    event: str
    status: str
    version: int
    endpoint_id: UUID | None
    owner_id: UUID | None
    destination: str | None
    job_id: UUID | None
    job_stage: str | None
    job_status: str | None
    job_version: int | None
    ended_at: datetime
    attempts: Sequence[AttemptView]
    next_attempt_at: datetime | None
    error: str | None
    created_at: datetime
    completed_at: datetime | None


async def list_deliveries(
    conn: Raw,
    *,
    endpoint_id: UUID | None = None,
    job_id: UUID | None = None,
    status: str | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> tuple[list[DeliveryView], str | None]:
    """Return a page of the deliveries that the session may see, newest first, and the cursor of the next page."""
    if status is not None and status not in STATES:
        raise CallbackError(Problem("status", f"must be one of {', '.join(STATES)}", quoted(status)))
    wanted: Mapping[str, Any] = {"endpoint_id": endpoint_id, "job_id": job_id, "status": status}
    given = {name: value for name, value in wanted.items() if value is not None}
    where = [f"d.{name} = %({name})s" for name in given]
    values = {**given, "limit": limit + 1}
    if cursor is not None:
        where.append("d.id < %(before)s")
        values["before"] = UUID(bytes=read_cursor(cursor, of=wanted, size=16))
    found = await conn.execute(
        f"{_SELECT} {'WHERE ' + ' AND '.join(where) if where else ''} ORDER BY d.id DESC LIMIT %(limit)s".encode(),
        values,
    )
    views = [_view(row) for row in await found.fetchall()]
    return views[:limit], make_cursor(views[limit - 1].id.bytes, of=wanted) if len(views) > limit else None


async def find_delivery(conn: Raw, delivery_id: UUID) -> DeliveryView:
    """Return one delivery with its attempts; raise UnknownDelivery."""
    found = await conn.execute(f"{_SELECT} WHERE d.id = %(id)s".encode(), {"id": delivery_id})
    if (row := await found.fetchone()) is None:
        raise UnknownDelivery(delivery_id)
    return _view(row)


async def resend_delivery(conn: Raw, actor: Actor, delivery_id: UUID, *, version: int | None = None) -> DeliveryView:
    """Send an ended delivery again, under the same ``webhook-id`` and by the whole schedule; return it as it is then.

    Raise UnknownDelivery, NotEnded, and StaleVersion if it has another version than ``version`` (if given).
    """
    values = {"id": delivery_id, "version": version, "reason": actor.change_reason}
    async with conn.transaction(), acting_on(conn, actor):
        done = await conn.execute(b"SELECT notifications.resend(%(id)s, %(version)s, %(reason)s)", values)
        row = await done.fetchone()
        found = await find_delivery(conn, delivery_id)
    if row is not None and row[0] is not None:
        return found
    if version not in {None, found.version}:
        raise StaleVersion(
            f"delivery {delivery_id} is at version {found.version}, got version {version}: look at it again"
        )
    if found.completed_at is None:
        raise NotEnded(f"delivery {delivery_id} is {found.status}, only an ended one can be sent again")
    raise Conflict(f"delivery {delivery_id} was sent again too often")


def _view(row: Sequence[Any]) -> DeliveryView:
    id_, event, status, version, endpoint_id, owner_id, url, job_id, stage, job_status, job_version, *rest = row
    ended_at, attempts, due_at, error, created_at, completed_at = rest
    return DeliveryView(
        id=id_,
        message_id=message_id(id_),
        event=event,
        status=status,
        version=version,
        endpoint_id=endpoint_id,
        owner_id=owner_id,
        destination=without_query(url) if url else None,
        job_id=job_id,
        job_stage=stage,
        job_status=job_status,
        job_version=job_version,
        ended_at=ended_at,
        attempts=[_attempt(one) for one in attempts],
        next_attempt_at=due_at,
        error=error,
        created_at=created_at,
        completed_at=completed_at,
    )


def _attempt(kept: Mapping[str, Any]) -> AttemptView:
    return AttemptView(
        at=datetime.fromisoformat(kept["at"]) if kept.get("at") else None,
        milliseconds=kept.get("milliseconds", 0),
        status=kept.get("status"),
        address=kept.get("address"),
        error=kept.get("error"),
        answer=kept.get("answer"),
    )
