"""The lines of batches in Postgres: which batch has which, what became of each, and whose jobs wait for them."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg.rows import class_row
from pydantic_core import to_json

from workers.llm.admission.prices import Prices
from workers.llm.admission.refusals import refusal_of
from workers.llm.admission.statements import Question, admit, settle, storable_count
from workers.llm.batch_lane.results import LineResult
from workers.llm.calls import Call, Caller, NotAdmittedError
from workers.runtime.database import Database, Raw
from workers.runtime.refusals import cut

# How many lines one transaction writes, and how many one answer of Postgres brings with their bodies.
PER_TRANSACTION, PER_PAGE = 250, 250
# A line is sent so often; then the normal lane asks.
MAX_TRIES = 3
FAILURE_CHARS = 1_000
MODEL_CHARS = 255

_CALL = """r.id, r.call_id, r.batch_id, r.job_id, r.stage, r.version, r.attempt, r.owner_id, r.project_id, r.profile_id,
           r.provider, r.model, r.route, r.step, r.input_tokens, r.output_tokens"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What the ledger needs to know of a line."""

    id: UUID
    call_id: UUID
    batch_id: UUID
    job_id: UUID
    stage: str
    version: int
    attempt: int | None
    owner_id: UUID | None
    project_id: UUID | None
    profile_id: UUID | None
    provider: str
    model: str
    route: str
    step: int
    input_tokens: int
    output_tokens: int

    @property
    def call(self) -> Call:
        """The call that the line is."""
        caller = Caller(
            stage=self.stage,
            job_id=self.job_id,
            version=self.version,
            attempt=self.attempt,
            owner_id=self.owner_id,
            project_id=self.project_id,
            profile_id=self.profile_id,
        )
        return Call(
            id=self.call_id,
            caller=caller,
            kind="chat",
            provider=self.provider,
            model=self.model,
            route=self.route,
            step=self.step,
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            lane="batch",
            batch_id=self.batch_id,
        )


@dataclass(frozen=True, slots=True)
class Assigned:
    """How many lines a batch has, and how many questions are left over for another."""

    lines: int
    left_over: int


@dataclass(frozen=True, slots=True)
class Sleeper:
    """A job that waits for answers, and the version of the run that asked last."""

    job_id: UUID
    stage: str
    version: int


async def assign(database: Database, batch: UUID, provider: str, model: str, *, most: int, most_bytes: int) -> Assigned:
    """Give the batch the questions that wait for it."""
    async with database.kernel() as conn:
        cursor = await conn.execute(
            "SELECT g.lines, g.left_over FROM llm.gather_batch(%s, %s, %s, %s, %s) AS g",
            (batch, provider, model, most, most_bytes),
        )
        row = await cursor.fetchone()
    assert row is not None
    return Assigned(*row)


async def ensure_batch(database: Database, provider: str, model: str, *, seconds: float) -> None:
    """Have another job gather what is left over."""
    async with database.kernel() as conn, conn.transaction():
        await conn.execute("SELECT llm.ensure_batch(%s, %s, %s)", (provider, model, seconds))


async def reserve(
    database: Database, batch: UUID, prices: Prices
) -> tuple[int, NotAdmittedError | None, Sequence[Mapping[str, Any]]]:
    """Reserve what the lines of a batch may cost; return how many were refused, why the last was, and warnings.

    Each line is reserved in the transaction that marks it as sent. A refused one waits on for another batch.
    """
    refused, why, warned = 0, None, list[Mapping[str, Any]]()
    while True:
        async with database.kernel() as conn, conn.transaction():
            lines = await _lines(
                conn,
                f"SELECT {_CALL} FROM llm.batch_requests AS r WHERE r.batch_id = %(batch)s AND r.state = 'waiting' "
                f"ORDER BY r.id LIMIT {PER_TRANSACTION} FOR UPDATE",
                {"batch": batch},
            )
            if not lines:
                return refused, why, warned
            questions = [Question(line.call, _price(prices, line)) for line in lines]
            answer = await admit(conn, questions, worker=None, asker=None, turn=1, again=False)
            admitted = [line.id for place, line in enumerate(lines) if place not in answer.refused]
            await conn.execute("UPDATE llm.batch_requests SET state = 'sent' WHERE id = ANY (%s)", (admitted,))
            await conn.execute(
                "UPDATE llm.batch_requests SET batch_id = NULL, call_id = NULL WHERE batch_id = %s AND id = ANY (%s)",
                (batch, [lines[place].id for place in answer.refused]),
            )
        warned += answer.warned
        refused += len(answer.refused)
        for cause in answer.refused.values():
            why = refusal_of(cause)


async def count_sent(database: Database, batch: UUID) -> int:
    """Return how many lines of the batch are sent with it."""
    async with database.kernel() as conn:
        cursor = await conn.execute(
            "SELECT count(*) FROM llm.batch_requests WHERE batch_id = %s AND call_id IS NOT NULL AND body IS NOT NULL "
            "AND state IN ('sent', 'released') AND NOT is_booked",
            (batch,),
        )
        row = await cursor.fetchone()
    return row[0] if row else 0


async def read_bodies(database: Database, batch: UUID) -> AsyncIterator[tuple[str, str]]:
    """Yield name and body of each line of the batch, always in the same order."""
    after = ""
    while True:
        async with database.kernel() as conn:
            cursor = await conn.execute(
                "SELECT custom_id, body FROM llm.batch_requests WHERE batch_id = %s AND state = 'sent' "
                "AND body IS NOT NULL AND custom_id > %s ORDER BY custom_id LIMIT %s",
                (batch, after, PER_PAGE),
            )
            rows = await cursor.fetchall()
        for custom_id, body in rows:
            yield custom_id, body
        if len(rows) < PER_PAGE:
            return
        after = rows[-1][0]


async def release_ended(database: Database, batch: UUID) -> int:
    """Take out the lines whose jobs have ended; return how many are left."""
    async with database.kernel() as conn:
        row = await (await conn.execute("SELECT llm.release_ended(%s)", (batch,))).fetchone()
    return row[0] if row else 0


_ANSWERED = f"""
    UPDATE llm.batch_requests AS r
       SET state = CASE WHEN r.state = 'sent' THEN 'answered' ELSE r.state END, is_booked = true,
           answer = CASE WHEN r.state = 'sent' THEN u.answer END,
           answered_at = clock_timestamp(), body = NULL, failure = NULL
      FROM jsonb_to_recordset(%(rows)s::jsonb) AS u (custom_id text, answer text)
     WHERE r.batch_id = %(batch)s AND r.custom_id = u.custom_id AND r.state IN ('sent', 'released') AND NOT r.is_booked
    RETURNING r.custom_id, {_CALL}"""


async def keep_answers(database: Database, batch: UUID, found: Sequence[LineResult]) -> set[str]:
    """Keep these answers and book what they cost, in one transaction; return the names of the lines that are new."""
    results = _first_of_each(found)
    rows = to_json([{"custom_id": one.custom_id, "answer": one.answer} for one in results.values()]).decode()
    async with database.kernel() as conn, conn.transaction():
        named = await _named_lines(conn, _ANSWERED, {"rows": rows, "batch": batch})
        if named:
            await settle(conn, [(line.call, _end(line, results[name])) for name, line in named])
    return {name for name, _ in named}


# A line that is sent again belongs to no batch meanwhile; one that has no time for that is left to the normal lane.
_FAILED = f"""
    WITH failed AS (
      SELECT r.id, r.custom_id, r.call_id, r.batch_id, r.state = 'sent' AS was_sent, u.failure,
             r.state = 'sent' AND NOT u.hopeless AND r.tries + %(counted)s < {MAX_TRIES}
               AND r.take_over_at > clock_timestamp() + interval '1 minute' AS goes_again
        FROM llm.batch_requests AS r
        JOIN jsonb_to_recordset(%(rows)s::jsonb) AS u (custom_id text, failure text, hopeless boolean)
          ON u.custom_id = r.custom_id
       WHERE r.batch_id = %(batch)s AND r.state IN ('sent', 'released') AND NOT r.is_booked
         FOR UPDATE OF r)
    UPDATE llm.batch_requests AS r
       SET state = CASE WHEN f.goes_again THEN 'waiting' WHEN f.was_sent THEN 'failed' ELSE r.state END,
           batch_id = CASE WHEN f.goes_again THEN NULL ELSE r.batch_id END,
           call_id = CASE WHEN f.goes_again THEN NULL ELSE r.call_id END,
           is_booked = NOT f.goes_again, tries = r.tries + %(counted)s, failure = f.failure,
           body = CASE WHEN f.goes_again THEN r.body END
      FROM failed AS f WHERE r.id = f.id
    RETURNING r.custom_id, f.goes_again, r.id, f.call_id, f.batch_id, r.job_id, r.stage, r.version, r.attempt,
              r.owner_id, r.project_id, r.profile_id, r.provider, r.model, r.route, r.step, r.input_tokens,
              r.output_tokens"""


async def keep_failures(
    database: Database, batch: UUID, found: Sequence[LineResult], *, counted: bool
) -> tuple[int, int]:
    """Record that these lines have no answer and cost nothing; return how many are asked again, and how many not."""
    results = _first_of_each(found)
    rows = to_json(
        [{"custom_id": one.custom_id, "failure": one.failure, "hopeless": one.is_hopeless} for one in results.values()]
    ).decode()
    again = normal = 0
    async with database.kernel() as conn, conn.transaction():
        cursor = await conn.execute(_FAILED, {"rows": rows, "batch": batch, "counted": int(counted)})
        ends = []
        for custom_id, goes_again, *facts in await cursor.fetchall():
            again, normal = again + goes_again, normal + (not goes_again)
            failure = cut(results[custom_id].failure or "no answer", FAILURE_CHARS)
            line = Line(**dict(zip(Line.__slots__, facts, strict=True)))
            ends.append((line.call, {"id": line.call_id, "as": "failed", "failure": failure}))
        if ends:
            await settle(conn, ends)
    return again, normal


async def unanswered(database: Database, batch: UUID) -> list[str]:
    """Return the names of up to :data:`PER_TRANSACTION` lines that are sent and have no result."""
    async with database.kernel() as conn:
        cursor = await conn.execute(
            "SELECT custom_id FROM llm.batch_requests WHERE batch_id = %s AND state IN ('sent', 'released') "
            "AND call_id IS NOT NULL AND NOT is_booked ORDER BY custom_id LIMIT %s",
            (batch, PER_TRANSACTION),
        )
        return [row[0] for row in await cursor.fetchall()]


async def let_go_unsent(database: Database, batch: UUID, reason: str) -> int:
    """Leave the lines to the normal lane that the batch was given and nothing was reserved for; return how many."""
    async with database.kernel() as conn:
        cursor = await conn.execute(
            "UPDATE llm.batch_requests SET state = 'failed', is_booked = true, failure = %s, body = NULL "
            "WHERE batch_id = %s AND state = 'waiting'",
            (cut(reason, FAILURE_CHARS), batch),
        )
        return cursor.rowcount


async def sleepers(database: Database, batch: UUID, *, after: UUID | None) -> list[Sleeper]:
    """Return jobs of the batch that no question keeps asleep any more, in the order of their ids."""
    async with database.kernel() as conn:
        cursor = conn.cursor(row_factory=class_row(Sleeper))
        await cursor.execute(
            """SELECT r.job_id, r.stage, max(r.version) AS version FROM llm.batch_requests AS r
                WHERE r.batch_id = %(batch)s AND r.woken_at IS NULL AND r.state IN ('answered', 'failed')
                  AND (%(after)s::uuid IS NULL OR r.job_id > %(after)s)
                  AND NOT EXISTS (SELECT FROM llm.batch_requests AS o
                                   WHERE o.job_id = r.job_id AND o.state IN ('waiting', 'sent'))
                GROUP BY r.job_id, r.stage ORDER BY r.job_id LIMIT %(most)s""",
            {"batch": batch, "after": after, "most": PER_TRANSACTION},
        )
        return await cursor.fetchall()


async def note_awake(conn: Raw, jobs: Sequence[Sleeper]) -> None:
    """Note that these jobs need not be woken any more, unless they have asked again since."""
    await conn.execute(
        """UPDATE llm.batch_requests AS r SET woken_at = clock_timestamp()
             FROM unnest(%s::uuid[], %s::int[]) AS u (job_id, version)
            WHERE r.job_id = u.job_id AND r.version <= u.version AND r.state IN ('answered', 'failed')""",
        ([job.job_id for job in jobs], [job.version for job in jobs]),
    )


async def _lines(conn: Raw, statement: str, values: Mapping[str, Any]) -> list[Line]:
    cursor = conn.cursor(row_factory=class_row(Line))
    await cursor.execute(statement.encode(), values)
    return await cursor.fetchall()


async def _named_lines(conn: Raw, statement: str, values: Mapping[str, Any]) -> list[tuple[str, Line]]:
    cursor = await conn.execute(statement.encode(), values)
    rows = await cursor.fetchall()
    return [(name, Line(**dict(zip(Line.__slots__, facts, strict=True)))) for name, *facts in rows]


def _first_of_each(found: Sequence[LineResult]) -> dict[str, LineResult]:
    """Return the first result of each name: a provider may send a line twice."""
    results: dict[str, LineResult] = {}
    for one in found:
        results.setdefault(one.custom_id, one)
    return results


def _price(prices: Prices, line: Line) -> Any:
    price = prices.of(line.provider, line.model, "chat")
    return price and price.on("batch")


def _end(line: Line, result: LineResult) -> dict[str, Any]:
    """Return what the ledger keeps of an answered line."""
    return {
        "id": line.call_id,
        "as": "settled",
        "input": storable_count(result.tokens("prompt_tokens")),
        "output": storable_count(result.tokens("completion_tokens")),
        "cached": storable_count(result.detail("prompt_tokens_details", "cached_tokens")),
        "reasoning": storable_count(result.detail("completion_tokens_details", "reasoning_tokens")),
        "usage": result.usage,
        "served": result.served_model and cut(result.served_model, MODEL_CHARS),
        "seconds": None,
    }
