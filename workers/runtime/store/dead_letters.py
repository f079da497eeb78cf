"""The statements on ``runtime.dead_messages``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Text, and_, bindparam, cast, func, or_, select, text, update
from sqlalchemy.dialects.postgresql import ARRAY, BYTEA, insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, aliased

from models.runtime import DeadMessage

REASON_CHARACTERS = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadMessageView:
    """One refused message; ``count`` says how often it came. ``body`` is cut where ``size`` is larger.

    Where messages of one content are shown as one, ``messages`` says how many they are, ``count`` how often all of them
    came, and the rest is the newest's, with the first 64 KiB of its ``body``.
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
_LISTED_BYTES = 65_536
# Messages that differ in their ids only.
_ONE_CONTENT = (DeadMessage.task, DeadMessage.queue, DeadMessage.content, DeadMessage.reason)
_NEWEST_FIRST = (DeadMessage.last_received_at.desc(), DeadMessage.id.desc())


async def put(session: AsyncSession, values: Mapping[str, Any]) -> None:
    """Keep a message; one that is kept already counts once more and waits for a replay again, under its first id."""
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
    """Add what came again; return the fingerprints that are kept (still)."""
    more = text(
        """UPDATE runtime.dead_messages AS d
              SET count = d.count + u.more, last_received_at = now(), replayed_at = NULL, job_id = NULL
             FROM unnest(:fingerprints, CAST(:counts AS bigint[])) AS u(fingerprint, more)
            WHERE d.fingerprint = u.fingerprint RETURNING d.fingerprint"""
    ).bindparams(bindparam("fingerprints", type_=ARRAY(BYTEA)))
    ordered = sorted(counts)  # two processes that count the same cannot deadlock
    values = {"fingerprints": ordered, "counts": [counts[one] for one in ordered]}
    return {bytes(row[0]) for row in await session.execute(more, values)}


async def usage(session: AsyncSession, *, most: int) -> tuple[int, int]:
    """Return how many messages are kept and how many bytes they have, without looking at more than ``most``."""
    some = select(DeadMessage.size).limit(most).subquery()
    row = (await session.execute(select(func.count(), func.coalesce(func.sum(some.c.size), 0)).select_from(some))).one()
    return int(row[0]), int(row[1])


def read_all(session: Session, *, with_replayed: bool, limit: int | None = None) -> list[DeadMessageView]:
    """Return the messages that wait for somebody, newest first; the replayed ones as well if asked for.

    Those of one content are one.
    """
    alike: dict[str, Any] = {"partition_by": _ONE_CONTENT}
    numbered = select(
        DeadMessage.id,
        func.row_number().over(**alike, order_by=_NEWEST_FIRST).label("place"),
        func.count().over(**alike).label("messages"),
        func.sum(DeadMessage.count).over(**alike).label("times"),
    )
    if not with_replayed:
        numbered = numbered.where(DeadMessage.replayed_at.is_(None))
    ranked = numbered.subquery()
    shown = [getattr(DeadMessage, name) for name in _OWN if name not in {"count", "body"}]
    rows = (
        select(
            *shown,
            func.substring(DeadMessage.body, 1, _LISTED_BYTES).label("body"),
            cast(ranked.c.times, BigInteger).label("count"),
            ranked.c.messages,
        )
        .join(ranked, ranked.c.id == DeadMessage.id)
        .where(ranked.c.place == 1)
        .order_by(*_NEWEST_FIRST)
        .limit(limit)
    )
    return [DeadMessageView(**row) for row in session.execute(rows).mappings()]


def waiting(session: Session) -> Sequence[UUID]:
    """Return all messages that wait for somebody, oldest first."""
    return session.scalars(
        select(DeadMessage.id).where(DeadMessage.replayed_at.is_(None)).order_by(DeadMessage.id)
    ).all()


def alike(session: Session, message: UUID) -> Sequence[UUID]:
    """Return this message and those of its content that wait, oldest first."""
    other = aliased(DeadMessage)
    same = [column.is_not_distinct_from(getattr(other, column.key)) for column in _ONE_CONTENT]
    rows = select(DeadMessage.id).join(other, and_(other.id == message, *same))
    return session.scalars(
        rows.where(or_(DeadMessage.id == message, DeadMessage.replayed_at.is_(None))).order_by(DeadMessage.id)
    ).all()


def read_one(session: Session, message: UUID, *, for_update: bool = False) -> DeadMessageView | None:
    """Return one message, or None; held for a replay if asked for."""
    rows = select(*_SHOWN).where(DeadMessage.id == message)
    row = session.execute(rows.with_for_update() if for_update else rows).mappings().first()
    return DeadMessageView(**row) if row else None


def matching(session: Session, prefix: str) -> Sequence[UUID]:
    """Return up to two messages whose id begins so."""
    rows = select(DeadMessage.id).where(cast(DeadMessage.id, Text).startswith(prefix, autoescape=True)).limit(2)
    return session.scalars(rows).all()


def note_replay(session: Session, message: UUID, job_id: UUID) -> None:
    """Write what became of a message."""
    session.execute(update(DeadMessage).where(DeadMessage.id == message).values(replayed_at=func.now(), job_id=job_id))


def note_reason(session: Session, message: UUID, reason: str) -> None:
    """Write why a message was refused again."""
    session.execute(update(DeadMessage).where(DeadMessage.id == message).values(reason=reason))
