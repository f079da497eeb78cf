"""Answers that identical jobs share: one question, one call, one result for a day.

A row of ``scoring.answers`` is a flight while it has no answer: it belongs to the run that put it there, for as long
as that very run is processing. A run that failed, was snoozed, rescued or cancelled has moved its job's version on,
so its flight is over without anyone cleaning up.
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

REUSED_FOR = timedelta(hours=24)
LEAST_WAIT, MOST_WAIT = timedelta(seconds=0.5), timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class Ours:
    """Nobody has asked: this run asks."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The question was answered within a day, by the job named: none where it is another owner's."""

    job_id: UUID | None
    llm_response: dict[str, Any]
    parsed_score: dict[str, Any]


@dataclass(frozen=True, slots=True)
class InFlight:
    """The run of another job is asking; look again after ``delay``. Another owner's job is not named."""

    job_id: UUID | None
    delay: timedelta


async def take(
    session: AsyncSession, fingerprint: bytes, *, run: Run, owner: UUID | None
) -> Ours | Answered | InFlight:
    """Take the question for ``run`` unless it is answered or being asked; of any number who try, one gets it.

    Its row decides, by its key and then by its lock, which ends with the session's transaction: unlike an advisory
    lock it needs rights, so that no tenant can keep others from an answer. Who comes later looks in a statement of its
    own: what it sees is then not older than whoever held the row before.
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
            continue  # deleted in between, as maintenance deletes old ones
        found = await _found(session, fingerprint, owner)
        if found is not None:
            return found
        await session.execute(update(ScoringAnswer).where(this).values(**claim))
        break
    return Ours()


class Given(NamedTuple):
    """The run that answered a question, and which model it asked."""

    fingerprint: bytes
    run: Run
    model: str


async def record(session: AsyncSession, given: Sequence[Given]) -> None:
    """Keep these answers for identical jobs, where the run still holds the question; one statement for all of them.

    Call it in the transaction that settles the jobs, after the settle: the answers are read from the jobs' own rows.
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


# Names its rows by their keys, as the kernel's connections want it: see ``workers.runtime.store.tables.TICKETS``.
_RECORD = text("""
    UPDATE scoring.answers AS a
       SET model = g.model, llm_response = j.llm_response, parsed_score = j.parsed_score, answered_at = now()
      FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS g(fingerprint text, id uuid, version int, model text)
      JOIN scoring.scoring_jobs AS j ON j.id = g.id AND j.version = g.version + 1
     WHERE a.fingerprint = ANY (:keys) AND a.fingerprint = decode(g.fingerprint, 'hex')
       AND a.job_id = g.id AND a.job_version = g.version AND a.answered_at IS NULL""")


def wait_for(elapsed: timedelta) -> timedelta:
    """Return how long to wait for a flight that began ``elapsed`` ago: as long again, within 0.5 to 5 s."""
    return min(max(elapsed, LEAST_WAIT), MOST_WAIT)


async def _found(session: AsyncSession, fingerprint: bytes, owner: UUID | None) -> Answered | InFlight | None:
    """Return what stands in the way of asking: an answer not too old, or a run that is still processing."""
    is_ours = exists().where(ScoringJob.id == ScoringAnswer.job_id, ScoringJob.owner_id.is_not_distinct_from(owner))
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
        (ScoringAnswer.answered_at > func.now() - cast(REUSED_FOR, Interval)).label("fresh"),
        (func.now() - ScoringAnswer.claimed_at).label("elapsed"),
        holder_runs.label("holder_runs"),
        is_ours.label("is_ours"),
    ).where(ScoringAnswer.fingerprint == fingerprint)
    row = (await session.execute(found)).one_or_none()
    if row is not None and row.fresh:
        return Answered(row.job_id if row.is_ours else None, row.llm_response, row.parsed_score)
    if row is not None and row.answered_at is None and row.holder_runs:
        return InFlight(row.job_id if row.is_ours else None, wait_for(row.elapsed))
    return None
