"""Kept answers in Postgres, for one process: many questions by one statement, one run that asks each of them."""

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import structlog

from workers.llm.admission.together import Together
from workers.llm.calls import CachedCalls, Call, Usage, new_call_id
from workers.llm.kept import statements
from workers.llm.kept.answers import KeptAnswer
from workers.llm.kept.in_process import InProcess
from workers.llm.kept.questions import AskedElsewhereError, Question
from workers.llm.kept.settling import AnswerToKeep, Asking, being_asked
from workers.runtime.backoff import reconnect_seconds
from workers.runtime.database import Database, is_database_away, retry_while_away
from workers.runtime.handler.context import note_progress, seconds_left
from workers.runtime.handler.errors import describe

log = structlog.get_logger(__name__)

MAX_PER_STATEMENT = 256
# How long a run waits for the answer to a question that another one asks: at most so long, and a third of its time.
MAX_WAIT = timedelta(seconds=10)
SHARE_OF_TIME = 3
MIN_LOOK_WAIT, MAX_LOOK_WAIT = timedelta(seconds=0.5), timedelta(seconds=5)
CLOSE_SECONDS = 2.0
# While Postgres cannot be used, a question is looked up so often. Then its job waits, without an attempt.
MAX_LOOKS = 5


@dataclass(frozen=True, slots=True)
class AskedBy:
    """Another run asks, for ``elapsed`` by now."""

    job_id: UUID | None
    elapsed: timedelta


# None: nothing is kept, and this run asks.
Look = KeptAnswer | AskedBy | None


@dataclass(slots=True, eq=False)
class _Looking:
    """A question that waits for its look."""

    question: Question
    looked: "asyncio.Future[Look]"


class PostgresKept:
    """Finds and keeps the answers of one process. While Postgres is away, nothing is found and so nothing is asked.

    Outside of runs nothing is found and nothing is kept. ``ledger`` records the calls that kept answers saved.
    """

    def __init__(
        self, database: Database, *, ledger: CachedCalls | None = None, max_wait: timedelta = MAX_WAIT
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._max_wait = max_wait.total_seconds()
        self._looks = Together(self._look_all, most=MAX_PER_STATEMENT)
        self._dropped = Together(self._let_go_all, most=MAX_PER_STATEMENT)
        self._cached = Together(self._record_all, most=MAX_PER_STATEMENT)
        self._here = InProcess()

    async def find(self, question: Question) -> KeptAnswer | None:
        """Return what was paid for already; None if the caller must ask, and then call ``keep`` or ``drop``.

        Wait while the same question is asked elsewhere, for a short time; then raise AskedElsewhereError.
        """
        being_asked.set(None)
        if question.caller.job_id is None:
            return None
        give_up = time.monotonic() + self._patience()
        found = await self._here.enter(question, give_up)
        if found is None:
            try:
                found = await self._await_elsewhere(question, give_up)
            except BaseException:
                self._here.leave(question, None)
                raise
            if found is None:
                being_asked.set(Asking(question))
                return None
            self._here.leave(question, found)
        if self._ledger is not None:
            self._cached.submit((question, found))
        return found

    async def keep(self, question: Question, answer: KeptAnswer) -> None:
        """Keep the valid answer to a question. Returns once that is committed."""
        asking = being_asked.get()
        being_asked.set(None)
        if question.caller.job_id is None:
            return
        try:
            if asking is None or asking.kept is None:
                await self._keep(AnswerToKeep(id=new_call_id(), question=question, answer=answer))
            note_progress()
        except Exception as error:  # noqa: BLE001 - it is paid for: this run has it, whoever comes later
            log.warning("answer_not_kept", job_id=str(question.caller.job_id), error=describe(error))
        finally:
            self._here.leave(question, answer)

    async def drop(self, question: Question) -> None:
        """Let another ask: this question got no answer. Awaits nothing: a cancelled run may call it."""
        being_asked.set(None)
        if question.caller.job_id is None:
            return
        self._here.leave(question, None)
        if question.is_shared:
            self._dropped.submit(question)

    async def aclose(self) -> None:
        """Free what this process does not ask any more, record what was cached; return after :data:`CLOSE_SECONDS`."""
        for gathering in (self._dropped, self._cached):
            if not await gathering.finish(within=CLOSE_SECONDS / 2):
                gathering.stop()

    def _patience(self) -> float:
        left = seconds_left()
        return self._max_wait if left is None else min(self._max_wait, max(left, 0.0) / SHARE_OF_TIME)

    async def _await_elsewhere(self, question: Question, give_up: float) -> KeptAnswer | None:
        """Return what is kept, None once this run may ask."""
        while isinstance(look := await self._look(question), AskedBy):
            delay = wait_before_look(look.elapsed)
            if time.monotonic() + delay.total_seconds() > give_up:
                raise AskedElsewhereError(look.job_id, delay=delay)
            await asyncio.sleep(delay.total_seconds())
        return look

    # ── ask Postgres ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _look(self, question: Question) -> Look:
        looking = _Looking(question, asyncio.get_running_loop().create_future())
        self._looks.submit(looking)
        return await looking.looked

    async def _look_all(self, looking: Sequence[_Looking]) -> None:
        attempt = 0
        while waiting := [one for one in looking if not one.looked.done()]:
            try:
                async with self._database.kernel() as conn:
                    found = await statements.find_answers(conn, [one.question for one in waiting])
            except Exception as error:  # noqa: BLE001 - sorted below
                attempt += 1
                if attempt == MAX_LOOKS or not is_database_away(error):
                    for one in waiting:
                        if not one.looked.done():
                            one.looked.set_exception(error)
                    return
                log.warning("kept_answers_wait_for_database", questions=len(waiting), error=describe(error))
                await asyncio.sleep(reconnect_seconds(attempt, draw=random.random))
            else:
                for one, told in zip(waiting, found, strict=True):
                    self._answer(one, _look_of(told))

    def _answer(self, one: _Looking, look: Look) -> None:
        if not one.looked.done():
            one.looked.set_result(look)
        elif look is None and one.question.is_shared:
            self._dropped.submit(one.question)  # its run was cancelled meanwhile

    async def _keep(self, answer: AnswerToKeep) -> None:
        async def write() -> None:
            async with self._database.kernel() as conn:
                await statements.keep_answers(conn, [answer])

        await retry_while_away(write)

    async def _record_all(self, found: Sequence[tuple[Question, KeptAnswer]]) -> None:
        """Record the calls that kept answers saved, all together. Nobody waits for these rows: they cost nothing."""
        assert self._ledger is not None
        rows = (self._ledger.record_cached(*_cached(question, answer)) for question, answer in found)
        for failed in await asyncio.gather(*rows, return_exceptions=True):
            if isinstance(failed, Exception):
                log.warning("cached_call_not_recorded", error=describe(failed))

    async def _let_go_all(self, questions: Sequence[Question]) -> None:
        """Free questions for others. If this fails, the end of their runs frees them."""

        async def write() -> None:
            async with self._database.kernel() as conn:
                await statements.let_go(conn, questions)

        try:
            await retry_while_away(write, attempts=3)
        except Exception as error:  # noqa: BLE001 - the end of the runs frees them
            log.warning("questions_not_freed", questions=len(questions), error=describe(error))


def _cached(question: Question, found: KeptAnswer) -> tuple[Call, Usage]:
    """Return the call that a kept answer saved, as the ledger has it: it costs nothing."""
    call = Call(
        caller=question.caller,
        kind="chat",
        provider=question.provider,
        model=question.model,
        route=question.route,
        input_tokens=0,
    )
    usage = Usage(
        input_tokens=found.prompt_tokens,
        output_tokens=found.completion_tokens,
        served_model=found.model,
        seconds=0.0,
    )
    return call, usage


def wait_before_look(elapsed: timedelta) -> timedelta:
    """Return how long to wait for a question that a run asks since ``elapsed``: the same time again, 0.5 to 5 s."""
    return min(max(elapsed, MIN_LOOK_WAIT), MAX_LOOK_WAIT)


def _look_of(told: Mapping[str, Any]) -> Look:
    if (answer := told.get("answer")) is not None:
        return KeptAnswer(
            job_id=UUID(answer["job_id"]),
            raw=answer["raw"],
            path=answer["path"],
            model=answer["model"],
            prompt_tokens=answer["input"],
            completion_tokens=answer["output"],
            seconds=answer["seconds"],
        )
    if told.get("ask"):
        return None
    asked_by = told.get("asked_by")
    return AskedBy(None if asked_by is None else UUID(asked_by), timedelta(seconds=told["elapsed"]))
