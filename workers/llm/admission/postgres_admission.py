"""Admission and ledger in Postgres, for one process: many calls by one statement, and no answer that is lost for good.

Ids of calls are made here. If the answer to a question is lost, the question is put again under a higher turn: then
the first one changes nothing any more, and what it had reserved is found. So no call is ever reserved twice.
"""

import asyncio
import random
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog
from psycopg.errors import ObjectNotInPrerequisiteState

from workers.llm.admission.capacity import Capacity, Path, capacity_of
from workers.llm.admission.prices import Price, Prices
from workers.llm.admission.refusals import refusal_of
from workers.llm.admission.statements import Answered, Question, admit, settle, storable_count
from workers.llm.admission.together import Together
from workers.llm.calls import Admission, Call, NotAdmittedError, Usage
from workers.llm.kept.settling import AnswerToKeep
from workers.runtime.backoff import reconnect_seconds
from workers.runtime.database import Database, is_caused_by_a_row, is_database_away, retry_while_away
from workers.runtime.failpoints import failpoint
from workers.runtime.handler.errors import describe, one_line
from workers.runtime.refusals import cut

log = structlog.get_logger(__name__)

MAX_PER_STATEMENT = 256
FAILURE_CHARS = 1_000
MODEL_CHARS = 255
CLOSE_SECONDS = 4.0

# None: the call is reserved.
Verdict = NotAdmittedError | None


@dataclass(slots=True, eq=False)
class _Asking:
    """A call that waits for its verdict; ``result`` is cancelled once nobody waits for it."""

    question: Question
    result: "asyncio.Future[Verdict]"

    @property
    def is_reserved(self) -> bool:
        return (
            self.result.done()
            and not self.result.cancelled()
            and self.result.exception() is None
            and not self.result.result()
        )


@dataclass(slots=True, eq=False)
class _Ending:
    """What became of a call, on its way to the ledger."""

    call: Call
    end: dict[str, Any]
    keep: AnswerToKeep | None = None
    result: "asyncio.Future[None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def finish(self, error: Exception | None = None) -> None:
        if self.result.done():
            return
        if error is None:
            self.result.set_result(None)
        else:
            self.result.set_exception(error)
            self.result.exception()  # somebody may wait for it, nobody must


class PostgresAdmission(Admission):
    """Admits the calls of one process and keeps their rows. Postgres away: reserving waits, and so no call is made.

    ``worker_id`` is the process's row in ``runtime.workers``: when its lease ends, what it has reserved is orphaned.
    """

    def __init__(self, database: Database, worker_id: UUID | None, prices: Prices) -> None:
        self._database = database
        self._worker_id = worker_id
        self._prices = prices
        self._asker = uuid.uuid4()
        self._turn = 0
        # When each call was reserved, as long as it is under way: its row is found without looking through all months.
        self._under_way: dict[UUID, tuple[Call, datetime]] = {}
        self._asks = Together(self._ask_all, most=MAX_PER_STATEMENT)
        self._ends = Together(self._end_all, most=MAX_PER_STATEMENT)
        self._listeners: list[Callable[[Sequence[Call]], None]] = []

    def when_settled(self, listener: Callable[[Sequence[Call]], None]) -> None:
        """Call ``listener`` with the calls of this process that have ended: what they had reserved is free again."""
        self._listeners.append(listener)

    async def reserve(self, call: Call) -> None:
        """Reserve what ``call`` may use, in all of its limits and budgets or in none; raise NotAdmittedError."""
        [refusal] = await self.reserve_many([call])
        if refusal is not None:
            raise refusal

    async def reserve_many(self, calls: Sequence[Call]) -> list[Verdict]:
        """Reserve each of ``calls``, the first ones first; return for each why it was not admitted, or None."""
        await self._prices.ready()
        loop = asyncio.get_running_loop()
        asking = [_Asking(Question(call, self._price_of(call)), loop.create_future()) for call in calls]
        self._asks.submit(*asking)
        try:
            return [await one.result for one in asking]
        except BaseException:
            for one in asking:
                if one.is_reserved:
                    self._submit(one.question.call, "released")
                one.result.cancel()
            raise

    async def settle(self, call: Call, usage: Usage, *, keep: AnswerToKeep | None = None) -> None:
        """Record what a reserved call used, and keep its answer. Returns once both are committed."""
        end = {
            "input": storable_count(usage.input_tokens),
            "output": storable_count(usage.output_tokens),
            "cached": storable_count(usage.cached_input_tokens),
            "reasoning": storable_count(usage.reasoning_tokens),
            "usage": usage.raw,
            "served": usage.served_model and cut(one_line(usage.served_model), MODEL_CHARS),
            "seconds": usage.seconds,
        }
        await asyncio.shield(self._submit(call, "settled", end, keep=keep).result)

    async def fail(self, call: Call, reason: str, *, charged: bool) -> None:
        """Record that a call gave no answer. ``charged``: it may be paid for, so its estimate stays counted."""
        failure = {"failure": cut(one_line(reason), FAILURE_CHARS)}
        await asyncio.shield(self._submit(call, "orphaned" if charged else "failed", failure).result)

    async def release(self, call: Call) -> None:
        """Give back the reservation of a call that was not made: it counts for nothing and leaves no row."""
        await asyncio.shield(self._submit(call, "released").result)

    async def record_cached(self, call: Call, usage: Usage) -> None:
        """Record a call that was answered by a kept answer: it costs nothing and is under no limit."""
        cached = {
            "cached": True,
            "usd": 0,
            "served": usage.served_model and cut(one_line(usage.served_model), MODEL_CHARS),
            "input_used": storable_count(usage.input_tokens),
            "output_used": storable_count(usage.output_tokens),
        }
        recorded: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._asks.submit(_Asking(Question(call, None, cached), recorded))
        await asyncio.shield(recorded)

    async def cool_down(self, provider: str, model: str, *, delay: timedelta, reason: str) -> None:
        """Let nobody call ``model`` of ``provider`` for ``delay``: it has refused a call (429)."""
        values = {"p": provider, "m": model, "s": delay.total_seconds(), "r": cut(one_line(reason), FAILURE_CHARS)}

        async def keep() -> None:
            async with self._database.kernel() as conn:
                await conn.execute("SELECT llm.cool_down(%(p)s, %(m)s, %(s)s, %(r)s)", values)

        await retry_while_away(keep)
        log.info("provider_cools_down", provider=provider, model=model, seconds=round(delay.total_seconds(), 1))

    async def learn(
        self,
        provider: str,
        model: str | None,
        *,
        measure: str,
        at_most: int,
        window: timedelta | None,
        holds_for: timedelta = timedelta(days=1),
    ) -> bool:
        """Keep a limit that a provider says it has, beside those of operators; tell whether that is news."""
        values = {
            "provider": provider,
            "model": model,
            "measure": measure,
            "most": at_most,
            "window": None if window is None else max(round(window.total_seconds()), 1),
            "seconds": holds_for.total_seconds(),
        }
        async with self._database.kernel() as conn:
            cursor = await conn.execute(
                "SELECT llm.learn_limit(%(provider)s, %(model)s, %(measure)s, %(most)s, %(window)s, %(seconds)s)",
                values,
            )
            row = await cursor.fetchone()
        return bool(row and row[0])

    async def capacity(self, paths: Sequence[Path]) -> list[Capacity]:
        """Return for each of ``paths`` how many calls could be admitted now, or until when none could, and why."""
        async with self._database.kernel() as conn:
            return await capacity_of(conn, paths)

    async def aclose(self) -> None:
        """Record what has ended, orphan what has not; return within :data:`CLOSE_SECONDS` and a little."""
        deadline = asyncio.get_running_loop().time() + CLOSE_SECONDS
        if not await self._asks.finish(within=CLOSE_SECONDS / 2):
            self._asks.stop()
        await self._ends.finish(within=max(deadline - asyncio.get_running_loop().time(), 0.1))
        for call, _ in list(self._under_way.values()):
            self._submit(call, "orphaned", {"failure": "its process ended"})
        if not await self._ends.finish(within=max(deadline - asyncio.get_running_loop().time(), 0.5)):
            self._ends.stop()
            log.warning("calls_not_recorded", calls=len(self._under_way))

    def _price_of(self, call: Call) -> Price | None:
        price = self._prices.of(call.provider, call.model, call.kind, input_tokens=call.input_tokens)
        return None if price is None else price.on(call.lane)

    async def _ask_all(self, asking: Sequence[_Asking], *, again: bool = False) -> None:
        """Put one question for all of them until it is answered; one that is wrong by itself fails alone."""
        attempt = 0
        while True:
            # What was asked once may be reserved, whoever waits for it: it is asked again, to be given back.
            asking = [one for one in asking if again or not one.result.done()]
            if not asking:
                return
            try:
                answer = await self._ask(asking, again=again)
            except ObjectNotInPrerequisiteState:
                again = True  # a question of ours with a higher turn: there is none, but of a process that was copied
                self._asker = uuid.uuid4()
            except Exception as error:  # noqa: BLE001 - sorted below
                if not is_database_away(error):
                    await self._ask_apart(asking, error, again=again)
                    return
                again = True
                attempt += 1
                log.warning("admission_waits_for_database", calls=len(asking), attempt=attempt, error=describe(error))
                await asyncio.sleep(reconnect_seconds(attempt, draw=random.random))
            else:
                try:
                    self._answer(asking, answer)
                except Exception as error:  # nobody may wait for ever
                    log.exception("admission_not_answered")
                    await self._ask_apart(asking, error, again=again)
                return

    async def _ask(self, asking: Sequence[_Asking], *, again: bool) -> Answered:
        self._turn += 1
        questions = [one.question for one in asking]
        failpoint("admit.before")
        async with self._database.kernel() as conn:
            answered = await admit(
                conn, questions, worker=self._worker_id, asker=self._asker, turn=self._turn, again=again
            )
        failpoint("admit.after")
        return answered

    async def _ask_apart(self, asking: Sequence[_Asking], error: Exception, *, again: bool) -> None:
        if len(asking) > 1 and is_caused_by_a_row(error):
            log.warning("admission_falls_back_to_single_calls", calls=len(asking), error=describe(error))
            for one in asking:
                await self._ask_all([one], again=again)
            return
        for one in asking:
            if not one.result.done():
                one.result.set_exception(error)

    def _answer(self, asking: Sequence[_Asking], answer: Answered) -> None:
        _warn(answer.warned)
        for place, one in enumerate(asking):
            call, cause = one.question.call, answer.refused.get(place)
            is_reserved = cause is None and one.question.cached is None
            if is_reserved and call.lane != "batch":  # a batch outlives this process
                self._under_way[call.id] = (call, answer.found.get(place, answer.at))
            if not one.result.done():
                one.result.set_result(None if cause is None else refusal_of(cause))
            elif is_reserved:
                self._submit(call, "released")  # nobody waits for it any more

    def _submit(
        self, call: Call, became: str, more: Mapping[str, Any] | None = None, *, keep: AnswerToKeep | None = None
    ) -> _Ending:
        _, at = self._under_way.get(call.id, (call, None))
        ending = _Ending(call, {"id": call.id, "at": at, "as": became, **(more or {})}, keep)
        self._ends.submit(ending)
        return ending

    async def _end_all(self, endings: Sequence[_Ending]) -> None:
        """Record all of them; two ends of one call one after the other."""
        while endings:
            first: dict[UUID, _Ending] = {}
            later = [one for one in endings if first.setdefault(one.call.id, one) is not one]
            await self._end(sorted(first.values(), key=lambda one: one.call.id))
            endings = later

    async def _end(self, endings: Sequence[_Ending]) -> None:
        attempt = 0
        while True:
            try:
                failpoint("account.before")
                async with self._database.kernel() as conn:
                    answers = [one.keep for one in endings if one.keep is not None]
                    _warn(await settle(conn, [(one.call, one.end) for one in endings], answers=answers))
                failpoint("account.after")
            except Exception as error:  # noqa: BLE001 - sorted below
                if not is_database_away(error):
                    await self._end_apart(endings, error)
                    return
                attempt += 1
                log.warning("ledger_waits_for_database", calls=len(endings), attempt=attempt, error=describe(error))
                await asyncio.sleep(reconnect_seconds(attempt, draw=random.random))
            else:
                break
        for one in endings:
            self._under_way.pop(one.call.id, None)
            one.finish()
        ended = [one.call for one in endings]
        for listener in self._listeners:
            listener(ended)

    async def _end_apart(self, endings: Sequence[_Ending], error: Exception) -> None:
        """Record each by itself; of one that cannot be, what it used, without what the provider says beside."""
        if len(endings) > 1:
            log.warning("ledger_falls_back_to_single_calls", calls=len(endings), error=describe(error))
            for one in endings:
                await self._end([one])
            return
        [one] = endings
        if one.keep is not None:
            log.warning("answer_not_kept", call_id=str(one.call.id), error=describe(error))
            await self._end([replace(one, keep=None)])
            return
        beside = {"usage", "served", "failure", "seconds"} & one.end.keys()
        if beside and any(one.end[name] is not None for name in beside):
            log.warning("ledger_row_cut", call_id=str(one.call.id), error=describe(error))
            await self._end([replace(one, end={name: v for name, v in one.end.items() if name not in beside})])
            return
        log.error("call_not_recorded", call_id=str(one.call.id), error=describe(error))
        one.finish(error)


def _warn(passed: Sequence[Mapping[str, Any]]) -> None:
    """Warn operators which budgets have passed a threshold: each once per window, by the process that saw it."""
    for one in passed:
        log.warning("budget_warning", budget=one["name"], share=one["share"], passed=one["threshold"])
