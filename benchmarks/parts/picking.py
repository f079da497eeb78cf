"""The cost of one dispatch tick in the database: the leader's pick, and its plan without a recent ANALYZE."""

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import psycopg

from benchmarks.stages import STAGES
from benchmarks.system import System
from workers.runtime.database import Database, Raw
from workers.runtime.dispatch.dispatcher import LEADER_SESSION
from workers.runtime.dispatch.leader import MAX_PER_PASS
from workers.runtime.handler.registry import Stage
from workers.runtime.store.dispatch import Window, pick, unmark_exactly

# Room for a whole pass, however many are in flight.
WIDE = Window(slots=100_000, at_most=MAX_PER_PASS, floor=MAX_PER_PASS)


@dataclass(frozen=True, slots=True)
class PickTimes:
    """Milliseconds of a tick: only finding 512 jobs, and also marking them; and whether it used the index."""

    select_ms: float
    whole_ms: float
    by_index: bool


class Recorder:
    """Acts as a connection: records the statement of the kernel and runs it."""

    def __init__(self, connection: Raw) -> None:
        self._connection = connection
        self.statement: tuple[str, Any] | None = None

    async def execute(self, query: str, parameters: Any = None) -> psycopg.AsyncCursor[Any]:
        self.statement = (query, parameters)
        return await self._connection.execute(query.encode(), parameters)


async def measure_picks(system: System, stage_name: str, times: int) -> PickTimes:
    """Pick ``times`` times from the current backlog, and roll every pick back."""
    stage = STAGES[stage_name]
    database = Database(system.database_url, changed_by="dispatcher:bench", pool_size=1)
    try:
        async with await database.listen(settings=LEADER_SESSION) as leader:
            recorder = Recorder(leader)
            whole = [await _timed(recorder, leader, stage) for _ in range(times)]
            plans = [await _plan(leader, recorder) for _ in range(max(3, times // 4))]
    finally:
        await database.close()
    select = statistics.median(_select_ms(plan) for plan in plans)
    return PickTimes(select, statistics.median(whole), all(_by_index(plan) for plan in plans))


async def _timed(recorder: Recorder, leader: Raw, stage: Stage) -> float:
    start = time.perf_counter()
    done = await pick(cast("Raw", recorder), stage, WIDE)
    took = (time.perf_counter() - start) * 1_000
    await unmark_exactly(leader, stage.model, [(job.id, job.version) for job in done.jobs])
    return took


async def _plan(leader: Raw, recorder: Recorder) -> dict[str, Any]:
    """Run the recorded pick with EXPLAIN ANALYZE and roll it back; return its plan."""
    assert recorder.statement is not None
    statement, parameters = recorder.statement
    async with leader.transaction(force_rollback=True):
        cursor = await leader.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}".encode(), parameters)
        [([explained],)] = await cursor.fetchall()
    plan: dict[str, Any] = explained["Plan"]
    return plan


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield every node of a plan."""
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


def _select_ms(plan: dict[str, Any]) -> float:
    """Return the time of the part that finds jobs: the CTE ``picked``, or its limit if the CTE was inlined."""
    named = [node for node in nodes(plan) if node.get("Subplan Name") == "CTE picked"]
    folded = [node for node in nodes(plan) if node["Node Type"] == "Limit" and _reads_ready(node)]
    return max(float(node["Actual Total Time"]) for node in (named or folded))


def _reads_ready(plan: dict[str, Any]) -> bool:
    return any("_ready" in node.get("Index Name", "") for node in nodes(plan))


def _by_index(plan: dict[str, Any]) -> bool:
    """Return whether the plan finds ready jobs with their index and reads no whole table."""
    scans = [node for node in nodes(plan) if "Scan" in node["Node Type"] and "Relation Name" in node]
    return _reads_ready(plan) and not any(node["Node Type"] == "Seq Scan" for node in scans)
