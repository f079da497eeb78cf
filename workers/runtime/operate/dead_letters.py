"""List, show and replay the messages that the Celery door refused."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from workers.runtime.actor import Actor, acting
from workers.runtime.enqueue import EnqueueError
from workers.runtime.handler.errors import describe, one_line
from workers.runtime.handler.registry import UnknownStageError
from workers.runtime.operate.requests import DOOR, EnqueueRequest, put_request, read_request
from workers.runtime.refusals import NotFound, quoted
from workers.runtime.store import dead_letters as store
from workers.runtime.store.dead_letters import MAX_REASON_CHARACTERS, DeadMessageView

__all__ = ["DeadMessageView"]


class UnknownDeadMessage(NotFound):
    """No refused message has that id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayResult:
    """The result of one message: ``enqueued``, ``known`` (its key has a job), ``refused`` again, ``kept`` unchanged."""

    id: UUID
    outcome: Literal["enqueued", "known", "refused", "kept"]
    job_id: UUID | None = None
    reason: str | None = None


async def list_dead(
    session: AsyncSession, *, with_replayed: bool, limit: int, after: tuple[datetime, UUID] | None = None
) -> list[DeadMessageView]:
    """Return the refused messages that are not yet replayed, newest first; with ``with_replayed`` all of them.

    ``after`` is the last time and the id of the last one of the page before.
    """
    return await session.run_sync(store.read_all, with_replayed=with_replayed, limit=limit, after=after)


async def show_dead(session: AsyncSession, message: str) -> DeadMessageView:
    """Return one refused message by its id, or by a unique beginning of it."""
    return await session.run_sync(_show, message)


async def replay_dead(session: AsyncSession, messages: Sequence[str] | None, actor: Actor) -> list[ReplayResult]:
    """Replay these refused messages (None: all that are not replayed) through the door, each by itself.

    A named message also replays all waiting messages with the same content, as the list shows them. A message that
    came several times is enqueued once.
    """
    async with acting(session, actor):
        return await session.run_sync(_replay_each, messages)


def _show(session: Session, message: str) -> DeadMessageView:
    row = store.read_one(session, _id(session, message))
    if row is None:
        raise UnknownDeadMessage(f"dead message {quoted(message)} does not exist; `gristmill dead list` shows them")
    return row


def _replay_each(session: Session, messages: Sequence[str] | None) -> list[ReplayResult]:
    if messages is None:
        ids = store.list_waiting(session)
    else:
        named = [_id(session, message) for message in messages]
        ids = list(dict.fromkeys(one for id_ in named for one in store.list_same_content(session, id_)))
    return [_replay(session, id_) for id_ in ids]


def _id(session: Session, message: str) -> UUID:
    found = store.find_by_prefix(session, message.strip().lower()) if message.strip() else ()
    if len(found) != 1:
        problem = "is the beginning of several ids" if found else "does not exist"
        raise UnknownDeadMessage(f"dead message {quoted(message)} {problem}; `gristmill dead list` shows them")
    return found[0]


def _replay(session: Session, id_: UUID) -> ReplayResult:
    row = store.read_one(session, id_, for_update=True)
    if row is None:
        return ReplayResult(id=id_, outcome="kept", reason="it was deleted meanwhile")
    if row.replayed_at is not None:
        return ReplayResult(id=id_, outcome="known", job_id=row.job_id, reason=f"it was replayed at {row.replayed_at}")
    if row.task != DOOR:
        return ReplayResult(id=id_, outcome="kept", reason=f"only messages of {DOOR} can be replayed, got {row.task!r}")
    if row.body is None or len(row.body) < row.size:
        return ReplayResult(id=id_, outcome="kept", reason=f"its body of {row.size:,} bytes was not kept completely")
    try:
        with session.begin_nested():
            done = put_request(session, _request(row))
    except (EnqueueError, UnknownStageError) as error:
        reason = one_line(str(error))[:MAX_REASON_CHARACTERS]
    except (ValueError, TypeError, RecursionError) as error:  # of a payload that no stage accepts
        reason = describe(error)[:MAX_REASON_CHARACTERS]
    else:
        store.note_replay(session, id_, done.id)
        return ReplayResult(id=id_, outcome="enqueued" if done.created else "known", job_id=done.id)
    store.note_reason(session, id_, reason)
    return ReplayResult(id=id_, outcome="refused", reason=reason)


def _request(row: DeadMessageView) -> EnqueueRequest:
    try:
        content = json.loads(row.body or b"")
        arguments, keywords = content[:2]
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise EnqueueError(f"body must be Celery's [arguments, keywords, …] in JSON: {describe(error)}") from None
    if not isinstance(arguments, list) or not isinstance(keywords, dict):
        raise EnqueueError("body must be Celery's [arguments, keywords, …] in JSON")
    return read_request(arguments, keywords, message_id=row.message_id)
