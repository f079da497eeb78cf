"""Answers that identical jobs share: one question is asked once a day.

A row of ``scoring.answers`` without an answer means that a run is asking the question. The row belongs to the run that
wrote it while that run is processing. If the run failed, or was snoozed, rescued or cancelled, its job has a newer
version. Then the row no longer counts and needs no cleanup.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Interval, cast, exists, func, null, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from models.scoring import SCORING, ScoringAnswer, ScoringJob
from workers.runtime.handler.context import Run

MAX_ANSWER_AGE = timedelta(hours=24)
MIN_LOOK_WAIT, MAX_LOOK_WAIT = timedelta(seconds=0.5), timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class MustAsk:
    """There is no answer and no other run is asking: this run must ask."""


@dataclass(frozen=True, slots=True)
class SharedAnswer:
    """The question was answered within a day. ``job_id`` is None if the job belongs to another owner."""

    job_id: UUID | None
    llm_response: dict[str, Any]
    parsed_score: dict[str, Any]


@dataclass(frozen=True, slots=True)
class AskedElsewhere:
    """Another job's run is asking: look again after ``delay``. ``job_id`` is None if it belongs to another owner."""

    job_id: UUID | None
    delay: timedelta


async def take(
    session: AsyncSession, fingerprint: bytes, *, run: Run, owner: UUID | None
) -> MustAsk | SharedAnswer | AskedElsewhere:
    """Take the question for ``run`` unless it is answered or being asked. If several runs try, exactly one gets it.

    The row's key and then its lock decide. The lock ends with the session's transaction. Unlike an advisory lock, a row
    lock needs rights on the table, so no tenant can block the others. A run that had to wait for the lock reads the row
    in a new statement, and so sees what the previous holder committed.
    """
    claim = {
        "job_id": run.job_id,
        "job_version": run.version,
        "model": None,
        "llm_response": null(),
        "parsed_score": null(),
        "claimed_at": func.now(),
        "answered_at": None,
    }
    row = insert(ScoringAnswer).values(fingerprint=fingerprint, **claim)
    mine = row.on_conflict_do_nothing(index_elements=[ScoringAnswer.fingerprint]).returning(ScoringAnswer.fingerprint)
    this = ScoringAnswer.fingerprint == fingerprint
    while (await session.execute(mine)).first() is None:
        held = select(ScoringAnswer.fingerprint).where(this).with_for_update()
        if (await session.execute(held)).first() is None:
            continue  # maintenance deleted the old row in between
        found = await _find_answer_or_asker(session, fingerprint, owner)
        if found is not None:
            return found
        await session.execute(update(ScoringAnswer).where(this).values(**claim))
        break
    return MustAsk()


class AnsweredQuestion(NamedTuple):
    """The run that answered a question, and the model that it asked."""

    fingerprint: bytes
    run: Run
    model: str


async def record(session: AsyncSession, given: Sequence[AnsweredQuestion]) -> None:
    """Store these answers for identical jobs, in one statement. Skip a question that its run no longer holds.

    Call it in the transaction that settles the jobs, after the settle: the answers are read from the jobs' rows.
    """
    rows = [
        {
            "fingerprint": one.fingerprint.hex(),
            "id": str(one.run.job_id),
            "version": one.run.version,
            "model": one.model,
        }
        for one in given
    ]
    keys = sorted(one.fingerprint for one in given)
    await session.execute(_RECORD, {"rows": json.dumps(rows), "keys": keys})


# Selects its rows by key, as the kernel's connections require: see ``workers.runtime.store.tables.TICKETS``.
_RECORD = text("""
    UPDATE scoring.answers AS a
       SET model = g.model, llm_response = j.llm_response, parsed_score = j.parsed_score, answered_at = now()
      FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS g(fingerprint text, id uuid, version int, model text)
      JOIN scoring.scoring_jobs AS j ON j.id = g.id AND j.version = g.version + 1
     WHERE a.fingerprint = ANY (:keys) AND a.fingerprint = decode(g.fingerprint, 'hex')
       AND a.job_id = g.id AND a.job_version = g.version AND a.answered_at IS NULL""")


def wait_before_look(elapsed: timedelta) -> timedelta:
    """Return how long to wait for a question that a run took ``elapsed`` ago: the same time again, 0.5 to 5 s."""
    return min(max(elapsed, MIN_LOOK_WAIT), MAX_LOOK_WAIT)


async def _find_answer_or_asker(
    session: AsyncSession, fingerprint: bytes, owner: UUID | None
) -> SharedAnswer | AskedElsewhere | None:
    """Return the answer if it is recent, or the run that is still asking, or None if this run may ask."""
    has_same_owner = exists().where(
        ScoringJob.id == ScoringAnswer.job_id, ScoringJob.owner_id.is_not_distinct_from(owner)
    )
    holder_runs = exists().where(
        ScoringJob.id == ScoringAnswer.job_id,
        ScoringJob.version == ScoringAnswer.job_version,
        ScoringJob.status == SCORING.step("scoring.score").running,
    )
    found = select(
        ScoringAnswer.job_id,
        ScoringAnswer.llm_response,
        ScoringAnswer.parsed_score,
        ScoringAnswer.answered_at,
        (ScoringAnswer.answered_at > func.now() - cast(MAX_ANSWER_AGE, Interval)).label("fresh"),
        (func.now() - ScoringAnswer.claimed_at).label("elapsed"),
        holder_runs.label("holder_runs"),
        has_same_owner.label("has_same_owner"),
    ).where(ScoringAnswer.fingerprint == fingerprint)
    row = (await session.execute(found)).one_or_none()
    if row is not None and row.fresh:
        return SharedAnswer(row.job_id if row.has_same_owner else None, row.llm_response, row.parsed_score)
    if row is not None and row.answered_at is None and row.holder_runs:
        return AskedElsewhere(row.job_id if row.has_same_owner else None, wait_before_look(row.elapsed))
    return None
