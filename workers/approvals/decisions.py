"""What became of a question, and deciding it: by a link, or by a person whom the door knows."""

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

__all__ = ["Approval", "Decided", "Decision", "State", "decide", "decide_by_link", "expire", "look"]

UNKNOWN = "this link is not valid; if there is a newer mail about the same, use the link in that one"
MAX_NOTE = 2_000
_READ = text("SELECT * FROM runtime.read_approval(:token)")
_DECIDE = text("SELECT runtime.decide_by_token(:token, :into, :note)")


class State(StrEnum):
    """What a link can still do."""

    OPEN = "open"  # it can decide
    DECIDED = "decided"  # somebody decided, with this link or otherwise
    EXPIRED = "expired"  # nobody decided in time
    CANCELLED = "cancelled"  # the job was cancelled
    REVOKED = "revoked"  # this person is not asked any more


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """What a link is about, and what became of it.

    ``became`` is the public name of the state that the wait led to; ``moved_by`` and ``moved_at`` say who moved it and
    when. ``is_own`` tells whether it was by this very link.
    """

    state: State
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


async def look(session: AsyncSession, token: str) -> Approval:
    """Return what a link is about; raise NotFound for one that never was or was replaced. Changes nothing."""
    row = (await session.execute(_READ, {"token": token})).one_or_none() if is_token(token) else None
    if row is None:
        raise NotFound(UNKNOWN)
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
    """Decide by a link, in the name of who got it; ``actor`` says from where. Return what the link is now.

    Link and wait are used in one statement. Raise Conflict with who decided what and when, or what else became of it,
    if the link decides nothing any more; NotFound for one that never was.
    """
    if note and (len(note) > MAX_NOTE or "\x00" in note):
        raise Refusal(Problem("note", f"must have {MAX_NOTE:,} characters at most and no NUL", quoted(note)))
    before = await look(session, token)
    if into not in {choice.into for choice in before.question.choices}:
        known = ", ".join(choice.into for choice in before.question.choices)
        raise Refusal(Problem("decision", f"must be one of {known}", quoted(into)))
    async with acting(session, actor):
        won = await session.scalar(_DECIDE, {"token": token, "into": into, "note": note})
    after = await look(session, token)
    if not won:
        raise Conflict(said_of(after))
    return after


async def decide(
    session: AsyncSession, model: type[Job], decisions: Sequence[Decision], *, actor: Actor
) -> list[Decided]:
    """Decide waits for a person whom the door knows: see :func:`workers.runtime.store.decide.decide`.

    Links about the same waits decide nothing from then on.
    """
    return await decide_on(await _driver(session), model, decisions, actor=actor)


async def expire(session: AsyncSession, model: type[Job]) -> int:
    """End the waits of one table that are over now; return how many. Beat does it for every table each minute."""
    return await expire_on(await _driver(session), model)


def said_of(approval: Approval) -> str:
    """Return the line that says why a link decides nothing any more."""
    at = f"{approval.moved_at:%Y-%m-%d %H:%M} UTC" if approval.moved_at else ""
    match approval.state:
        case State.DECIDED:
            return f"this was decided already: {approval.became}, by {approval.moved_by} at {at}"
        case State.CANCELLED:
            return f"this was cancelled at {at}: there is nothing to decide any more"
        case State.EXPIRED:
            return f"this expired at {approval.expires_at:%Y-%m-%d %H:%M} UTC: nobody had decided by then"
        case State.REVOKED:
            return f"{approval.recipient} is not asked any more"
        case State.OPEN:
            return "this waits for no decision by this link now; look again"


def _state(row: Row[Any]) -> State:
    match row.action:
        case None if row.revoked_at is not None:
            return State.REVOKED
        case None:
            return State.EXPIRED if row.is_over else State.OPEN
        case "cancel":
            return State.CANCELLED
        case "expire":
            return State.EXPIRED
        case _:
            return State.DECIDED


async def _driver(session: AsyncSession) -> "psycopg.AsyncConnection[Any]":
    connection = (await (await session.connection()).get_raw_connection()).driver_connection
    assert isinstance(connection, psycopg.AsyncConnection)
    return connection
