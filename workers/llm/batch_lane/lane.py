"""The batch lane as a call meets it: an answer that is there, or a question that is kept until one is."""

import asyncio
import hashlib
import json
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import structlog
from pydantic_core import to_json

from workers.llm.admission.together import Together
from workers.llm.calls import Caller, current_caller
from workers.llm.ports import LaneQuestion
from workers.runtime.database import Database, Raw, is_caused_by_a_row
from workers.runtime.failpoints import failpoint
from workers.runtime.handler.errors import Deferred, describe

log = structlog.get_logger(__name__)

# A batch is sent this long after its first question came, with all that came since.
GATHER = timedelta(minutes=1)
MAX_PER_STATEMENT = 256
MAX_RUNS = 4_096
# As in the database: a longer question takes the normal lane.
MAX_BODY_BYTES = 8 * 1024 * 1024
MIN_DELAY = timedelta(seconds=1)

_LANES = """
    SELECT l.job_id FROM llm.lanes AS l WHERE l.job_id = ANY (%(ids)s::uuid[]) AND l.lane = 'batch'"""
_ENTER = """
    INSERT INTO llm.lanes (job_id, stage, lane, within_until, take_over_at)
    SELECT %(job_id)s, %(stage)s, 'batch', now() + interval '24 hours', now() + interval '23 hours'
        ON CONFLICT (job_id) DO NOTHING"""
_ASK = """
    SELECT a.place, a.became, a.answer, a.wait, a.until
      FROM llm.ask_in_batch(%(questions)s::jsonb, %(gather)s) AS a"""


# How much an answer may have.
BOUNDS = ("max_tokens", "max_completion_tokens")


def key_of(body: str, nth: int) -> bytes:
    """Return the key of a question among those of its job: what is asked, in which form, and for the how manieth time.

    It is the same in each run of the job. The most that an answer may have is no part of it: what a process knows of
    the model's reasoning changes that.
    """
    asked = {name: value for name, value in json.loads(body).items() if name not in BOUNDS}
    return hashlib.blake2b(json.dumps([nth, asked], sort_keys=True).encode(), digest_size=20).digest()


def custom_id(job_id: UUID, version: int, key: bytes) -> str:
    """Return the name of a line in its batch: job, version of the run that asked, and which of its questions."""
    return f"{job_id.hex}-{version}-{key[:8].hex()}"


class InBatchLaneError(Deferred):
    """The question waits for an answer in the batch lane, until the normal lane takes over."""

    def __init__(self, provider: str, until: datetime, *, delay: timedelta) -> None:
        super().__init__(f"in the batch lane of {provider} until {until:%Y-%m-%d %H:%M} UTC", delay=delay)


class _Became(NamedTuple):
    became: str
    answer: str | None = None
    wait: float | None = None
    until: datetime | None = None


@dataclass(slots=True, eq=False)
class _Lookup:
    job_id: UUID
    result: "asyncio.Future[bool]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


@dataclass(slots=True, eq=False)
class _Asked:
    caller: Caller
    question: LaneQuestion
    key: bytes
    result: "asyncio.Future[_Became]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def row(self) -> dict[str, Any]:
        caller, question = self.caller, self.question
        assert caller.job_id is not None
        assert caller.version is not None
        return {
            "job_id": caller.job_id,
            "stage": caller.stage,
            "version": caller.version,
            "attempt": caller.attempt,
            "owner_id": caller.owner_id,
            "project_id": caller.project_id,
            "profile_id": caller.profile_id,
            "key": self.key.hex(),
            "custom_id": custom_id(caller.job_id, caller.version, self.key),
            "provider": question.provider,
            "model": question.model,
            "route": question.route,
            "step": question.step,
            "input_tokens": question.input_tokens,
            "output_tokens": question.output_tokens,
            "body": question.body,
        }


class BatchLane:
    """The batch lane of one process. What concurrent runs ask of it is one statement."""

    def __init__(self, database: Database, *, gather: timedelta = GATHER) -> None:
        self._database = database
        self._gather = gather
        # Whether the job of a run is in the lane. A job enters it before its run begins, or between two runs.
        self._known: OrderedDict[tuple[UUID, int], bool] = OrderedDict()
        # How often each run has asked each of its questions.
        self._times: OrderedDict[tuple[UUID, int], Counter[bytes]] = OrderedDict()
        self._lookups = Together(self._look_up, most=MAX_PER_STATEMENT)
        self._asks = Together(self._ask, most=MAX_PER_STATEMENT)

    async def has(self, caller: Caller) -> bool:
        """Tell whether the caller's job is in the batch lane."""
        if caller.job_id is None or caller.version is None:
            return False
        key = (caller.job_id, caller.version)
        if (known := self._known.get(key)) is None:
            lookup = _Lookup(caller.job_id)
            self._lookups.submit(lookup)
            known = await lookup.result
            self._note(caller, is_in_lane=known)
        return known

    async def enter(self, caller: Caller) -> bool:
        """Put the caller's job into the lane for a day; tell whether it was put there now.

        A job that was in the lane before, and came back from it, stays where it is.
        """
        if caller.job_id is None:
            return False
        async with self._database.kernel() as conn:
            cursor = await conn.execute(_ENTER, {"job_id": caller.job_id, "stage": caller.stage})
            entered = cursor.rowcount == 1
        if entered:
            self._note(caller, is_in_lane=True)
            log.info("job_moved_to_batch_lane", job_id=str(caller.job_id), stage=caller.stage)
        return entered

    async def answer(self, question: LaneQuestion) -> str | None:
        """Return the body of the provider's answer to the current run's question, if there is one.

        None: the normal lane is to ask. Raise InBatchLaneError as long as the answer may come.
        """
        caller = current_caller()
        if not await self.has(caller) or len(question.body.encode()) > MAX_BODY_BYTES:
            return None
        asked = _Asked(caller, question, self._key(caller, question.body))
        self._asks.submit(asked)
        became = await asked.result
        match became.became:
            case "answered":
                return became.answer
            case "waiting":
                delay = max(timedelta(seconds=became.wait or 0), MIN_DELAY)
                assert became.until is not None
                raise InBatchLaneError(question.provider, became.until, delay=delay)
            case _:
                return None

    def _note(self, caller: Caller, *, is_in_lane: bool) -> None:
        assert caller.job_id is not None
        self._known[caller.job_id, caller.version or 0] = is_in_lane
        while len(self._known) > MAX_RUNS:
            self._known.popitem(last=False)

    def _key(self, caller: Caller, body: str) -> bytes:
        """Return the key of a question of this run, and count that it is asked."""
        assert caller.job_id is not None
        times = self._times.setdefault((caller.job_id, caller.version or 0), Counter())
        first = key_of(body, 0)
        times[first] += 1
        while len(self._times) > MAX_RUNS:
            self._times.popitem(last=False)
        return first if times[first] == 1 else key_of(body, times[first] - 1)

    async def _look_up(self, lookups: Sequence[_Lookup]) -> None:
        async def look(conn: Raw) -> set[UUID]:
            cursor = await conn.execute(_LANES, {"ids": list({one.job_id for one in lookups})})
            return {row[0] for row in await cursor.fetchall()}

        try:
            async with self._database.kernel() as conn:
                found = await look(conn)
        except Exception as error:  # noqa: BLE001 - each asker gets it
            _fail(lookups, error)
            return
        for one in lookups:
            if not one.result.done():
                one.result.set_result(one.job_id in found)

    async def _ask(self, asked: Sequence[_Asked]) -> None:
        try:
            rows = to_json([one.row() for one in asked]).decode()
            async with self._database.kernel() as conn:
                failpoint("batch_ask.before")
                cursor = await conn.execute(_ASK, {"questions": rows, "gather": self._gather.total_seconds()})
                found = {place: _Became(*rest) for place, *rest in await cursor.fetchall()}
                failpoint("batch_ask.after")
        except Exception as error:  # noqa: BLE001 - each asker gets it
            if len(asked) > 1 and is_caused_by_a_row(error):
                log.warning("batch_lane_falls_back_to_single_questions", questions=len(asked), error=describe(error))
                for one in asked:
                    await self._ask([one])
                return
            _fail(asked, error)
            return
        for place, one in enumerate(asked, 1):
            if not one.result.done():
                one.result.set_result(found[place])


def _fail(askers: Sequence[_Lookup] | Sequence[_Asked], error: Exception) -> None:
    for one in askers:
        if not one.result.done():
            one.result.set_exception(error)
