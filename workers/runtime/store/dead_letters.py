"""The statements on ``runtime.dead_messages``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Text, bindparam, cast, func, select, text, update
from sqlalchemy.dialects.postgresql import ARRAY, BYTEA, insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from models.runtime import DeadMessage

REASON_CHARACTERS = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadMessageView:
    """One refused message; ``count`` says how often the same came. ``body`` is cut where ``size`` is larger."""

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


_SHOWN = [getattr(DeadMessage, name) for name in DeadMessageView.__annotations__]
_NEWEST_FIRST = (DeadMessage.last_received_at.desc(), DeadMessage.id.desc())


async def put(session: AsyncSession, values: Mapping[str, Any]) -> None:
    """Keep a message; one whose content is kept already counts once more and waits for a replay again."""
    row = insert(DeadMessage).values(values)
    again = {
        "count": DeadMessage.count + 1,
        "last_received_at": func.now(),
        "reason": row.excluded.reason,
        "message_id": func.coalesce(row.excluded.message_id, DeadMessage.message_id),
        "replayed_at": None,
        "job_id": None,
    }
    await session.execute(row.on_conflict_do_update(index_elements=[DeadMessage.fingerprint], set_=again))


async def count_more(session: AsyncSession, counts: Mapping[bytes, tuple[int, str | None]]) -> set[bytes]:
    """Add what came again, and the newest message's id; return the fingerprints that are kept (still)."""
    more = text(
        """UPDATE runtime.dead_messages AS d
              SET count = d.count + u.more, last_received_at = now(), replayed_at = NULL, job_id = NULL,
                  message_id = coalesce(u.message_id, d.message_id)
             FROM unnest(:fingerprints, CAST(:counts AS bigint[]), :ids) AS u(fingerprint, more, message_id)
            WHERE d.fingerprint = u.fingerprint RETURNING d.fingerprint"""
    ).bindparams(bindparam("fingerprints", type_=ARRAY(BYTEA)), bindparam("ids", type_=ARRAY(Text)))
    ordered = sorted(counts)  # two processes that count the same cannot deadlock
    values = {
        "fingerprints": ordered,
        "counts": [counts[one][0] for one in ordered],
        "ids": [counts[one][1] for one in ordered],
    }
    return {bytes(row[0]) for row in await session.execute(more, values)}


async def has_at_least(session: AsyncSession, rows: int) -> bool:
    """Tell whether so many messages are kept, without counting more of them."""
    some = select(DeadMessage.id).limit(rows).subquery()
    return (await session.scalar(select(func.count()).select_from(some)) or 0) >= rows


def read_all(session: Session, *, with_replayed: bool, limit: int | None = None) -> list[DeadMessageView]:
    """Return the messages that wait for somebody, newest first; the replayed ones as well if asked for."""
    rows = select(*_SHOWN).order_by(*_NEWEST_FIRST).limit(limit)
    if not with_replayed:
        rows = rows.where(DeadMessage.replayed_at.is_(None))
    return [DeadMessageView(**row) for row in session.execute(rows).mappings()]


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
