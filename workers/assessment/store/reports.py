"""Count assessments, their durations and their failures. Reads whole tables: for people, not for loops."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

REASON_LENGTH = 120

_COUNTS = text("""
    SELECT state::text, count(*), max(CASE WHEN completed_at IS NULL THEN now() - created_at END) AS oldest
      FROM assessments.assessment_states
     WHERE CAST(:since AS interval) IS NULL OR created_at > now() - CAST(:since AS interval)
     GROUP BY assessment_states.state ORDER BY assessment_states.state
""")
# Waiting counts: `total` is what whoever asked had to wait, `processing` what the last attempt took.
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
# Numbers and quoted values differ from one failure to the next: without them the same reason is one reason.
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
    """How many assessments are in a state, and for how long the oldest of them has been waited for."""

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
    """How long completed assessments of a type took: their last attempt, and from their creation on."""

    assessment_type: str
    count: int
    processing: Quantiles | None
    total: Quantiles


@dataclass(frozen=True, slots=True)
class Failures:
    """How many assessments failed in an hour for one reason; numbers and quoted values in it are left out."""

    hour: datetime
    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class Ended:
    """How many assessments ended in an hour in one state."""

    hour: datetime
    state: str
    count: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """Everything that ``gristmill assessments stats`` shows, of one moment."""

    states: Sequence[StateCount]
    durations: Sequence[Durations]
    failures: Sequence[Failures]
    hours: Sequence[Ended]


async def statistics(session: AsyncSession, *, since: timedelta | None = None) -> Statistics:
    """Return the counts by state, durations by type, failures and endings by hour; of the last ``since``, or of all.

    What is counted by state was created in that time, all else ended in it. Hours are UTC's.
    """
    span = {"since": since}
    return Statistics(
        states=[StateCount(*row) for row in await session.execute(_COUNTS, span)],
        durations=[
            Durations(kind, count, _quantiles(processing), Quantiles(*total))
            for kind, count, processing, total in await session.execute(_DURATIONS, span)
        ],
        failures=[Failures(*row) for row in await session.execute(_FAILURES, {**span, "length": REASON_LENGTH})],
        hours=[Ended(*row) for row in await session.execute(_HOURS, span)],
    )


def _quantiles(values: Sequence[float] | None) -> Quantiles | None:
    return None if values is None else Quantiles(*values)
