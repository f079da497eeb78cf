"""Read the state of a link, and decide a wait: by a link, or for a person who is signed in at a door."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import psycopg
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncSession

from models.lifecycle import Job
from workers.approvals.links import is_token
from workers.approvals.question import Question
from workers.runtime.actor import Actor, acting
from workers.runtime.refusals import Conflict, NotFound, Problem, Refusal, quoted
from workers.runtime.store.decide import Decided, Decision
from workers.runtime.store.decide import decide as decide_on
from workers.runtime.store.expire import expire as expire_on

__all__ = ["Approval", "Decided", "Decision", "LinkState", "decide", "decide_by_link", "expire", "read_approval"]

UNKNOWN_LINK = "this link is not valid; if there is a newer mail about it, use the link in that mail"
MAX_NOTE_CHARACTERS = 2_000
_READ = text("SELECT * FROM runtime.read_approval(:token)")
_DECIDE = text("SELECT runtime.decide_by_token(:token, :into, :note)")


class LinkState(StrEnum):
    """The state of a link."""

    OPEN = "open"  # it can decide
    DECIDED = "decided"  # somebody decided, by this link or in another way
    EXPIRED = "expired"  # nobody decided in time
    CANCELLED = "cancelled"  # the job was cancelled
    REVOKED = "revoked"  # this person is no longer asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """The question of a link and its result.

    ``became`` is the public name of the state that followed the wait; ``moved_by`` and ``moved_at`` say who ended the
    wait and when. ``is_own`` is true if this link was used to decide.
    """

    state: LinkState
    job_id: UUID
    version: int
    recipient: str
    purpose: str
    question: Question
    expires_at: datetime
    became: str | None
    moved_by: str | None
    moved_at: datetime | None
    is_own: bool
    note: str | None


async def read_approval(session: AsyncSession, token: str) -> Approval:
    """Return the question and the state of a link; raise NotFound if it does not exist or was replaced."""
    row = (await session.execute(_READ, {"token": token})).one_or_none() if is_token(token) else None
    if row is None:
        raise NotFound(UNKNOWN_LINK)
    return Approval(
        state=_state(row),
        job_id=row.job_id,
        version=row.version,
        recipient=row.recipient,
        purpose=row.purpose,
        question=Question.model_validate(row.question),
        expires_at=row.expires_at,
        became=row.became,
        moved_by=row.moved_by,
        moved_at=row.moved_at,
        is_own=row.used_at is not None,
        note=row.note,
    )


async def decide_by_link(
    session: AsyncSession, token: str, into: str, *, actor: Actor, note: str | None = None
) -> Approval:
    """Decide by a link, in the name of its recipient; ``actor`` says from where. Return the new state of the link.

    One statement uses the link and ends the wait. Raise Conflict if the link can no longer decide; the message says who
    decided what and when, or how else the wait ended. Raise NotFound if the link does not exist.
    """
    if note and (len(note) > MAX_NOTE_CHARACTERS or "\x00" in note):
        raise Refusal(Problem("note", f"must have {MAX_NOTE_CHARACTERS:,} characters at most and no NUL", quoted(note)))
    before = await read_approval(session, token)
    if into not in {choice.into for choice in before.question.choices}:
        known = ", ".join(choice.into for choice in before.question.choices)
        raise Refusal(Problem("decision", f"must be one of {known}", quoted(into)))
    async with acting(session, actor):
        won = await session.scalar(_DECIDE, {"token": token, "into": into, "note": note})
    after = await read_approval(session, token)
    if not won:
        raise Conflict(explain_closed(after))
    return after


async def decide(
    session: AsyncSession, model: type[Job], decisions: Sequence[Decision], *, actor: Actor
) -> list[Decided]:
    """Decide waits for a person who is signed in at a door: see :func:`workers.runtime.store.decide.decide`.

    Links for the same waits can no longer decide.
    """
    return await decide_on(await _driver(session), model, decisions, actor=actor)


async def expire(session: AsyncSession, model: type[Job]) -> int:
    """End the waits of one table that have expired; return how many. Beat does this for every table each minute."""
    return await expire_on(await _driver(session), model)


def explain_closed(approval: Approval) -> str:
    """Return the line that says why a link can no longer decide."""
    at = f"{approval.moved_at:%Y-%m-%d %H:%M} UTC" if approval.moved_at else ""
    match approval.state:
        case LinkState.DECIDED:
            return f"this was decided already: {approval.became}, by {approval.moved_by} at {at}"
        case LinkState.CANCELLED:
            return f"this was cancelled at {at}: there is nothing left to decide"
        case LinkState.EXPIRED:
            return f"this expired at {approval.expires_at:%Y-%m-%d %H:%M} UTC: nobody decided in time"
        case LinkState.REVOKED:
            return f"{approval.recipient} is no longer asked"
        case LinkState.OPEN:
            return "this link cannot decide now; open it again"


def _state(row: Row[Any]) -> LinkState:
    match row.action:
        case None if row.revoked_at is not None:
            return LinkState.REVOKED
        case None:
            return LinkState.EXPIRED if row.is_over else LinkState.OPEN
        case "cancel":
            return LinkState.CANCELLED
        case "expire":
            return LinkState.EXPIRED
        case _:
            return LinkState.DECIDED


async def _driver(session: AsyncSession) -> "psycopg.AsyncConnection[Any]":
    connection = (await (await session.connection()).get_raw_connection()).driver_connection
    assert isinstance(connection, psycopg.AsyncConnection)
    return connection
