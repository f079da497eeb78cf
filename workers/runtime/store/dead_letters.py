"""The statements on ``runtime.dead_messages``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Text, and_, bindparam, cast, func, or_, select, text, tuple_, update
from sqlalchemy.dialects.postgresql import ARRAY, BYTEA, insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, aliased

from models.runtime import DeadMessage

MAX_REASON_CHARACTERS = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadMessageView:
    """One refused message; ``count`` is how often it was received. ``body`` is cut if ``size`` is larger.

    If messages with the same content are shown as one, ``messages`` is their number and ``count`` is how often all of
    them were received. The other fields are those of the newest one, with the first 64 KiB of its ``body``.
    """

    id: UUID
    reason: str
    task: str | None
    message_id: str | None
    queue: str | None
    content_type: str | None
    arguments: str | None
    keywords: str | None
    body: bytes | None
    size: int
    count: int
    received_at: datetime
    last_received_at: datetime
    replayed_at: datetime | None
    job_id: UUID | None
    messages: int = 1


_OWN = tuple(name for name in DeadMessageView.__annotations__ if name != "messages")
_SHOWN = [getattr(DeadMessage, name) for name in _OWN]
_MAX_LISTED_BYTES = 65_536
# Messages that are equal in these columns differ only in their ids.
_SAME_CONTENT = (DeadMessage.task, DeadMessage.queue, DeadMessage.content, DeadMessage.reason)
_NEWEST_FIRST = (DeadMessage.last_received_at.desc(), DeadMessage.id.desc())


async def save_message(session: AsyncSession, values: Mapping[str, Any]) -> None:
    """Save a message. If it is saved already, add one to its count and let it wait for a replay again; its id stays."""
    row = insert(DeadMessage).values(values)
    again = {
        "count": DeadMessage.count + 1,
        "last_received_at": func.now(),
        "reason": row.excluded.reason,
        "message_id": func.coalesce(DeadMessage.message_id, row.excluded.message_id),
        "replayed_at": None,
        "job_id": None,
    }
    await session.execute(row.on_conflict_do_update(index_elements=[DeadMessage.fingerprint], set_=again))


async def count_more(session: AsyncSession, counts: Mapping[bytes, int]) -> set[bytes]:
    """Add to the counts of messages that came again; return the fingerprints that are still in the table."""
    more = text(
        """UPDATE runtime.dead_messages AS d
              SET count = d.count + u.more, last_received_at = now(), replayed_at = NULL, job_id = NULL
             FROM unnest(:fingerprints, CAST(:counts AS bigint[])) AS u(fingerprint, more)
            WHERE d.fingerprint = u.fingerprint RETURNING d.fingerprint"""
    ).bindparams(bindparam("fingerprints", type_=ARRAY(BYTEA)))
    ordered = sorted(counts)  # two processes that count the same cannot deadlock
    values = {"fingerprints": ordered, "counts": [counts[one] for one in ordered]}
    return {bytes(row[0]) for row in await session.execute(more, values)}


async def read_usage(session: AsyncSession, *, most: int) -> tuple[int, int]:
    """Return the number of messages and of their bytes. At most ``most`` messages are counted."""
    some = select(DeadMessage.size).limit(most).subquery()
    row = (await session.execute(select(func.count(), func.coalesce(func.sum(some.c.size), 0)).select_from(some))).one()
    return int(row[0]), int(row[1])


def read_all(
    session: Session, *, with_replayed: bool, limit: int | None = None, after: tuple[datetime, UUID] | None = None
) -> list[DeadMessageView]:
    """Return the messages that wait for a replay, newest first; with ``with_replayed``, the replayed ones too.

    Messages with the same content are returned as one. ``after`` is the last time and the id of the last one of the
    page before.
    """
    group: dict[str, Any] = {"partition_by": _SAME_CONTENT}
    numbered = select(
        DeadMessage.id,
        func.row_number().over(**group, order_by=_NEWEST_FIRST).label("place"),
        func.count().over(**group).label("messages"),
        func.sum(DeadMessage.count).over(**group).label("times"),
    )
    if not with_replayed:
        numbered = numbered.where(DeadMessage.replayed_at.is_(None))
    ranked = numbered.subquery()
    shown = [getattr(DeadMessage, name) for name in _OWN if name not in {"count", "body"}]
    rows = (
        select(
            *shown,
            func.substring(DeadMessage.body, 1, _MAX_LISTED_BYTES).label("body"),
            cast(ranked.c.times, BigInteger).label("count"),
            ranked.c.messages,
        )
        .join(ranked, ranked.c.id == DeadMessage.id)
        .where(ranked.c.place == 1)
        .order_by(*_NEWEST_FIRST)
        .limit(limit)
    )
    if after is not None:
        rows = rows.where(tuple_(DeadMessage.last_received_at, DeadMessage.id) < after)
    return [DeadMessageView(**row) for row in session.execute(rows).mappings()]


def list_waiting(session: Session) -> Sequence[UUID]:
    """Return all messages that wait for a replay, oldest first."""
    return session.scalars(
        select(DeadMessage.id).where(DeadMessage.replayed_at.is_(None)).order_by(DeadMessage.id)
    ).all()


def list_same_content(session: Session, message: UUID) -> Sequence[UUID]:
    """Return this message and the waiting messages with the same content, oldest first."""
    other = aliased(DeadMessage)
    same = [column.is_not_distinct_from(getattr(other, column.key)) for column in _SAME_CONTENT]
    rows = select(DeadMessage.id).join(other, and_(other.id == message, *same))
    return session.scalars(
        rows.where(or_(DeadMessage.id == message, DeadMessage.replayed_at.is_(None))).order_by(DeadMessage.id)
    ).all()


def read_one(session: Session, message: UUID, *, for_update: bool = False) -> DeadMessageView | None:
    """Return one message, or None; with ``for_update``, lock its row for a replay."""
    rows = select(*_SHOWN).where(DeadMessage.id == message)
    row = session.execute(rows.with_for_update() if for_update else rows).mappings().first()
    return DeadMessageView(**row) if row else None


def find_by_prefix(session: Session, prefix: str) -> Sequence[UUID]:
    """Return up to two messages with an id that begins with ``prefix``."""
    rows = select(DeadMessage.id).where(cast(DeadMessage.id, Text).startswith(prefix, autoescape=True)).limit(2)
    return session.scalars(rows).all()


def note_replay(session: Session, message: UUID, job_id: UUID) -> None:
    """Write that a message was replayed and which job it became."""
    session.execute(update(DeadMessage).where(DeadMessage.id == message).values(replayed_at=func.now(), job_id=job_id))


def note_reason(session: Session, message: UUID, reason: str) -> None:
    """Write why a message was refused again."""
    session.execute(update(DeadMessage).where(DeadMessage.id == message).values(reason=reason))
