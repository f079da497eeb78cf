"""Count assessments, their durations and their failures. Reads whole tables, so do not call it often."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

MAX_REASON_CHARACTERS = 120

_COUNTS = text("""
    SELECT state::text, count(*), max(CASE WHEN completed_at IS NULL THEN now() - created_at END) AS oldest
      FROM assessments.assessment_states
     WHERE CAST(:since AS interval) IS NULL OR created_at > now() - CAST(:since AS interval)
     GROUP BY assessment_states.state ORDER BY assessment_states.state
""")
# `total` includes all waiting, from creation to the end; `processing` is the last attempt only.
_DURATIONS = text("""
    SELECT coalesce(left(request_data ->> 'assessmentType', 80), '(none)') AS assessment_type, count(*),
           percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY extract(epoch FROM completed_at - started_at))
             FILTER (WHERE started_at IS NOT NULL) AS processing,
           percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY extract(epoch FROM completed_at - created_at))
             AS total
      FROM assessments.assessment_states
     WHERE state = 'completed' AND (CAST(:since AS interval) IS NULL OR completed_at > now() - CAST(:since AS interval))
     GROUP BY 1 ORDER BY 2 DESC, 1
""")
# Without numbers and quoted values, failures with the same reason have the same text.
_FAILURES = text("""
    SELECT date_trunc('hour', completed_at, 'UTC') AS hour,
           left(regexp_replace(regexp_replace(coalesce(left(error_message, 2000), '(no message)'),
                                              '''[^'']*''', '''…''', 'g'),
                               '[0-9]+(\\.[0-9]+)?', 'N', 'g'), :length) AS reason,
           count(*)
      FROM assessments.assessment_states
     WHERE state = 'failed' AND (CAST(:since AS interval) IS NULL OR completed_at > now() - CAST(:since AS interval))
     GROUP BY 1, 2 ORDER BY 1 DESC, 3 DESC, 2
""")
_HOURS = text("""
    SELECT date_trunc('hour', completed_at, 'UTC') AS hour, state::text, count(*)
      FROM assessments.assessment_states
     WHERE completed_at IS NOT NULL
       AND (CAST(:since AS interval) IS NULL OR completed_at > now() - CAST(:since AS interval))
     GROUP BY 1, assessment_states.state ORDER BY 1, 2
""")


@dataclass(frozen=True, slots=True)
class StateCount:
    """How many assessments are in a state, and the age of the oldest that has not ended."""

    state: str
    count: int
    oldest: timedelta | None


@dataclass(frozen=True, slots=True)
class Quantiles:
    """The median and the 95th percentile of durations, in seconds."""

    p50: float
    p95: float


@dataclass(frozen=True, slots=True)
class Durations:
    """How long completed assessments of a type took: the last attempt, and the time since creation."""

    assessment_type: str
    count: int
    processing: Quantiles | None
    total: Quantiles


@dataclass(frozen=True, slots=True)
class Failures:
    """How many assessments failed in an hour for one reason; numbers and quoted values are removed from it."""

    hour: datetime
    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class HourlyEndings:
    """How many assessments ended in one state in an hour."""

    hour: datetime
    state: str
    count: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """The content of ``gristmill assessments stats``."""

    states: Sequence[StateCount]
    durations: Sequence[Durations]
    failures: Sequence[Failures]
    hours: Sequence[HourlyEndings]


async def statistics(session: AsyncSession, *, since: timedelta | None = None) -> Statistics:
    """Return counts by state, durations by type, and failures and endings by hour, of the last ``since`` or of all.

    Counts by state are of assessments created in that time; the others are of those that ended in it. Hours are UTC.
    """
    span = {"since": since}
    return Statistics(
        states=[StateCount(*row) for row in await session.execute(_COUNTS, span)],
        durations=[
            Durations(kind, count, _quantiles(processing), Quantiles(*total))
            for kind, count, processing, total in await session.execute(_DURATIONS, span)
        ],
        failures=[
            Failures(*row) for row in await session.execute(_FAILURES, {**span, "length": MAX_REASON_CHARACTERS})
        ],
        hours=[HourlyEndings(*row) for row in await session.execute(_HOURS, span)],
    )


def _quantiles(values: Sequence[float] | None) -> Quantiles | None:
    return None if values is None else Quantiles(*values)
