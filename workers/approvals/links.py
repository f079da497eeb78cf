"""Links that decide. Each has a random token; only the hash of the token is stored."""

import hashlib
import json
import re
import secrets
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from models.lifecycle import Job
from workers.approvals.question import Question
from workers.runtime.refusals import Conflict, Problem, Refusal, quoted

TOKEN_BYTES = 32
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
# The history keeps names of at most 255 characters.
_RECIPIENT = re.compile(r"(?=.*\S)[^\x00-\x1f\x7f-\x9f]{1,255}")
_PURPOSE = re.compile(r"[a-z_]{1,40}", re.ASCII)


class JobWait(NamedTuple):
    """A waiting job; ``version`` is the one with which the wait began."""

    model: type[Job]
    job_id: UUID
    version: int


# Workers may not read hashes, so the update uses `:hash` and not `excluded.token_hash`.
_ISSUE = text("""
    INSERT INTO runtime.approval_tokens AS t
           (token_hash, table_name, job_id, version, recipient, purpose, decides, question, expires_at)
    VALUES (:hash, :table, :job_id, :version, :recipient, :purpose, :decides, CAST(:question AS jsonb), :until)
    ON CONFLICT (job_id, table_name, version, recipient, purpose) DO UPDATE
       SET token_hash = :hash, decides = excluded.decides, question = excluded.question,
           created_at = now(), expires_at = excluded.expires_at, revoked_at = NULL
     WHERE t.used_at IS NULL
    RETURNING t.id""")
_REVOKE = text("""
    UPDATE runtime.approval_tokens SET revoked_at = clock_timestamp()
     WHERE table_name = :table AND job_id = :job_id AND used_at IS NULL AND revoked_at IS NULL
       AND (CAST(:recipient AS text) IS NULL OR recipient = :recipient)
    RETURNING id""")


def new_token() -> str:
    """Return a token that nobody can guess: 256 random bits, safe in a URL."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def token_hash(token: str) -> bytes:
    """Return the hash that is stored for a token. The token is random, so a fast hash is safe."""
    return hashlib.sha256(token.encode()).digest()


def is_token(text: str) -> bool:
    """Tell whether ``text`` has the form of a token. Other text is not looked up."""
    return bool(_TOKEN.fullmatch(text))


async def issue(session: AsyncSession, asked: JobWait, question: Question, *, recipient: str, purpose: str) -> str:
    """Return a new token for the link by which ``recipient`` answers ``question``. The token itself is not stored.

    There is one token for each wait, recipient and purpose (``ask``, ``reminder``). A new one replaces the old one, and
    the old link is no longer valid. Raise Conflict if the old one was already used to decide.
    """
    if problem := _problem(asked.model, question, recipient, purpose):
        raise Refusal(problem)
    token = new_token()
    values = {
        "hash": token_hash(token),
        "table": _table(asked.model),
        "job_id": asked.job_id,
        "version": asked.version,
        "recipient": recipient,
        "purpose": purpose,
        "decides": [choice.into for choice in question.choices],
        "question": json.dumps(question.model_dump(mode="json")),
        "until": question.until,
    }
    if await session.scalar(_ISSUE, values) is None:
        raise Conflict(f"{recipient} has already decided job {asked.job_id} by the link for {purpose}")
    return token


async def revoke(session: AsyncSession, model: type[Job], job_id: UUID, *, recipient: str | None = None) -> int:
    """Revoke the unused links of a job, or only those of ``recipient``; return how many.

    Use it if a person is no longer asked, or if the question changes while the job waits.
    """
    values = {"table": _table(model), "job_id": job_id, "recipient": recipient}
    return len((await session.execute(_REVOKE, values)).all())


def _problem(model: type[Job], question: Question, recipient: str, purpose: str) -> Problem | None:
    """Return the reason if the link could never decide, or could not be stored."""
    cycle, choices = model.__lifecycle__, {choice.into for choice in question.choices}
    known = {state for wait in cycle.waits for state in wait.decides}
    # A link sets no deadline, so it cannot lead to a wait without its own deadline.
    known -= {wait.state for wait in cycle.waits if wait.lasts is None}
    if unknown := sorted(choices - known):
        return Problem("choices", f"must be among {', '.join(sorted(known)) or 'none'}", quoted(unknown))
    if not _PURPOSE.fullmatch(purpose):
        return Problem("purpose", "must be small letters and _", quoted(purpose))
    if not _RECIPIENT.fullmatch(recipient):
        return Problem("recipient", "must be one line of 1 to 255 characters", quoted(recipient))
    return None


def _table(model: type[Job]) -> str:
    return str(model.__table__)
