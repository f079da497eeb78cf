"""Judge a run by what it left: ``runtime.transitions``, the job tables, ``runtime.ticks`` and the run's evidence.

``report = await check(connection, evidence)`` reads one snapshot and changes nothing; ``report.ok``, ``report.failed``
and ``print(report.render())`` say what it found. Call it when the workload has ended and everything has healed.

Of :class:`tests.chaos.evidence.Evidence`, what may be left out: ``all_told`` (with it, rejections and stops are held to
an equality instead of a bound), ``deaf`` (when a worker was frozen or cut off from Postgres: it could not hear of a
cancel nor renew its lease), ``aged`` (jobs moved back in time for prune to find).

**After the acknowledgement.** A call that is under way when its job is cancelled cannot be taken back, and the worker
learns of the cancel by a bell, or at its next look at its fences. What is promised is that a worker that has been told
starts no call. So a call may start up to ``grace`` after the cancel was acknowledged: one second, the longest a
worker goes without a look, and one for a request that was sent and not yet read by a busy provider. Only time in which
every worker could hear counts (``deaf``; a road to the provider that holds requests up belongs there too). How a
process under test reads its clock does not matter: acknowledgement and call are timed by the machine that judges.
"""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, cast

from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

import tests.proving.stages  # noqa: F401 - registers the proving stages
from models.lifecycle import Job
from tests.chaos import queries
from tests.chaos.evidence import Call, Evidence
from workers.runtime.admission import Limit
from workers.runtime.database import Raw
from workers.runtime.maintenance import concrete
from workers.runtime.registry import Registry, discover
from workers.runtime.schedules import next_time
from workers.runtime.store.rescue import DEADLINE_MARGIN
from workers.runtime.store.tables import JobTable, job_table
from workers.runtime.store.verify import verify_history

CANCEL_GRACE = timedelta(seconds=2)
# A worker that can hear again listens anew within this: its back-off, a connection, and one look at its fences.
HEARS_AGAIN_SECONDS = 3.0
MOVING = ("dispatched, waiting for a slot", "ready, waiting for the dispatcher")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """At most ``at_most`` calls of one stage start within any ``per``."""

    at_most: int
    per: timedelta


@dataclass(frozen=True, slots=True)
class Verdict:
    """One rule: how many things were held to it, how many broke it, and up to ten of these."""

    name: str
    examined: int
    violations: int
    jobs: Sequence[str] = ()


@dataclass(slots=True)
class Report:
    """Every verdict of one run."""

    verdicts: list[Verdict] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return not self.failed

    @property
    def failed(self) -> list[str]:
        """The names of the rules that were broken."""
        return [verdict.name for verdict in self.verdicts if verdict.violations]

    def __getitem__(self, name: str) -> Verdict:
        (found,) = (verdict for verdict in self.verdicts if verdict.name == name)
        return found

    def render(self) -> str:
        """Return the report as a table for people."""
        width = max((len(verdict.name) for verdict in self.verdicts), default=0)
        lines = [f"{'rule':<{width}}  {'examined':>9}  {'violations':>10}"]
        for verdict in self.verdicts:
            mark = f"{verdict.violations:>10}" if verdict.violations else f"{'–':>10}"
            lines.append(f"{verdict.name:<{width}}  {verdict.examined:>9,}  {mark}")
            lines += [f"    {job}" for job in verdict.jobs]
        total = sum(verdict.violations for verdict in self.verdicts)
        lines.append(f"{total or 'no'} violation{'' if total == 1 else 's'}, checked in {self.seconds:.1f} s")
        return "\n".join(lines)


async def check(
    connection: Raw,
    evidence: Evidence,
    *,
    patience: timedelta = timedelta(0),
    lease: timedelta = timedelta(seconds=3),
    grace: timedelta = CANCEL_GRACE,
    limits: Mapping[str, Limit] | None = None,
    rates: Mapping[str, Rate] | None = None,
) -> Report:
    """Hold everything a run left against every promise, in one snapshot.

    ``patience`` is how long a job that can move (running, or ready for the dispatcher) may have stood still. ``lease``
    is the shortest lease of the run's workers. ``limits`` are those that the stages declare unless given; ``rates``
    bound the provider's calls by stage. A connection that has a transaction open is read as that transaction sees it.
    """
    started = time.monotonic()
    checking = _Checking(connection, evidence)
    stages = discover()
    alone = connection.info.transaction_status == TransactionStatus.IDLE
    async with connection.transaction():
        if alone:
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        await checking.prepare()
        await checking.jobs(patience)
        await checking.histories()
        await checking.runs(lease)
        await checking.limits(stages, _declared(stages) if limits is None else limits)
        await checking.schedules()
        await checking.ends(grace)
        if rates:
            await checking.rates(rates)
    return Report(checking.verdicts, time.monotonic() - started)


def _declared(stages: Registry) -> dict[str, Limit]:
    return {stage.name: stage.limit for stage in stages.values() if stage.limit}


class _Checking:
    """One check under way: each method adds the verdicts of one subject."""

    def __init__(self, connection: Raw, evidence: Evidence) -> None:
        self.verdicts: list[Verdict] = []
        self._connection = connection
        self._evidence = evidence
        self._tables: list[JobTable] = []

    async def prepare(self) -> None:
        for statement in (queries.SETTINGS, queries.STEPS, queries.HELD, queries.ANALYZE):
            await self._connection.execute(statement.encode())
        rows = await self._all("SELECT table_name FROM runtime.lifecycles")
        known = {name for (name,) in rows}
        tables = [job_table(model) for model in cast("list[type[Job]]", concrete(Job))]
        self._tables = [table for table in tables if table.label in known]

    async def jobs(self, patience: timedelta) -> None:
        """None lost, none stuck, none twice, none removed too soon."""
        committed, unsure = self._evidence.committed, self._evidence.unsure
        await self._judge(
            "committed jobs exist", queries.NONE_MISSING, ids=list(committed), stages=list(committed.values())
        )
        await self._judge("no job stands still", queries.NONE_STUCK, patience=patience, moving=list(MOVING))
        await self._judge("one job per idempotency key", queries.ONE_JOB_PER_KEY, keys=list(unsure))
        await self._judge(
            "prune removed only the old and ended",
            queries.PRUNED,
            aged=list(self._evidence.aged),
            tables=[table.label for table in self._tables],
            retentions=[table.lifecycle.retention for table in self._tables],
        )

    async def histories(self) -> None:
        """Versions without gaps, one end per life, rows where their history ends, legal steps only."""
        checks = await verify_history(self._connection)
        for name, kinds, examined in (
            ("versions gapless", ("gaps", "duplicates"), "transitions"),
            ("one end per life", ("ended_twice",), "ends"),
            ("rows are where their history ends", ("mismatched", "unrecorded"), "jobs"),
        ):
            broken = [sum(getattr(check, kind) for kind in kinds) for check in checks]
            suspects = [str(job) for check, n in zip(checks, broken, strict=True) if n for job in check.suspects]
            self._add(name, sum(getattr(check, examined) for check in checks), sum(broken), suspects)
        await self._judge("transitions legal", queries.LEGAL)

    async def runs(self, lease: timedelta) -> None:
        """Every run settled by who claimed it, effects once, attempts counted, only the silent rescued."""
        await self._judge("runs settled by their claimant", queries.SETTLED_BY_CLAIMANT)
        await self._effects()
        await self._judge("attempts counted", queries.ATTEMPTS)
        await self._judge(
            "only the silent are rescued",
            queries.RESCUES,
            lease=lease,
            margin=DEADLINE_MARGIN,
            since=[since for since, _ in self._evidence.deaf],
            until=[until + HEARS_AGAIN_SECONDS for _, until in self._evidence.deaf],
        )
        await self._stale_rejections()

    async def _effects(self) -> None:
        found = Verdict("effects committed once", 0, 0)
        for table in self._tables:
            c = table.column
            if "effects" in c:
                sql = queries.effects_once(table.name, c["act"], c["effects"])
            elif "parsed_score" in c:
                sql = queries.result_if_completed(table.name, c["status"], c["parsed_score"])
            else:
                continue
            found = _sum(found, await self._verdict(found.name, sql, completed=table.lifecycle.completed))
        self.verdicts.append(found)

    async def _stale_rejections(self) -> None:
        """Compare what workers rejected or stopped with the runs that someone else moved on (rescued, cancelled).

        Each of these causes one rejection or one stop at most; where every worker lived to say it, exactly one.
        """
        ((moved,),) = await self._all(queries.MOVED_RUNS, cancelled=list(self._evidence.cancelled))
        said = self._evidence.stale_rejections + self._evidence.stopped_runs
        wrong = abs(said - moved) if self._evidence.all_told else said - moved
        self._add("stale writes rejected, no others", moved, max(wrong, 0))

    async def limits(self, stages: Registry, limits: Mapping[str, Limit]) -> None:
        """Running per key within the limit at every instant, by the database's times."""
        found = Verdict("running per key within its limit", 0, 0)
        for name, limit in limits.items():
            table = job_table(stages[name].model)
            if table in self._tables:
                sql = queries.within_limit(table.name, table.column["id"], table.column[limit.column])
                found = _sum(found, await self._verdict(found.name, sql, stage=name, at_most=limit.at_most))
        self.verdicts.append(found)

    async def schedules(self) -> None:
        """One job per tick, one tick per time, and no time that the cron text does not name."""
        await self._judge("one job per tick", queries.TICKS)
        examined, wrong = 0, []
        for name, cron, timezone, catch_up, times in await self._all(queries.TICK_TIMES):
            examined += len(times)
            wrong += [f"{name} {at}" for at in _misplaced(cron, timezone, catch_up, times)]
        self._add("ticks at their times", examined, len(wrong), wrong)

    async def ends(self, grace: timedelta) -> None:
        """What is cancelled stays so and calls nobody; nobody calls for a job that was not claimed."""
        cancelled, calls = self._evidence.cancelled, self._evidence.calls
        await self._judge("cancelled stays cancelled", queries.CANCELLED, cancelled=list(cancelled))
        after = [call for call in calls if call.job_id in cancelled]
        late = [f"{call.job_id}" for call in after if self._lateness(call) > grace.total_seconds()]
        self._add("no call after a cancel", len(after), len(late), late)
        await self._judge(
            "calls belong to runs",
            queries.CALLS,
            ids=[call.job_id for call in calls],
            at=[call.started_at for call in calls],
        )

    def _lateness(self, call: Call) -> float:
        """Return for how long every worker could have heard of the cancel when this call started."""
        heard_from, deaf_seconds = self._evidence.cancelled[call.job_id], 0.0
        for since, until in sorted(self._evidence.deaf):
            begin, end = max(since, heard_from), min(until + HEARS_AGAIN_SECONDS, call.started_at)
            if end > begin:
                deaf_seconds += end - begin
                heard_from = end
        return call.started_at - self._evidence.cancelled[call.job_id] - deaf_seconds

    async def rates(self, rates: Mapping[str, Rate]) -> None:
        """No more calls of a stage within any window than its rate allows, by the provider's times."""
        calls = self._evidence.calls
        stage_of = dict(await self._all(queries.STAGES_OF, ids=list({call.job_id for call in calls})))
        by_stage: dict[str, list[Call]] = defaultdict(list)
        for call in sorted(calls, key=lambda call: call.started_at):
            by_stage[stage_of.get(call.job_id, "")].append(call)
        over = [str(call.job_id) for name, rate in rates.items() for call in _over_rate(by_stage[name], rate)]
        self._add("calls within their rate", sum(len(by_stage[name]) for name in rates), len(over), over)

    async def _judge(self, name: str, sql: str, **values: Any) -> None:
        self.verdicts.append(await self._verdict(name, sql, **values))

    async def _verdict(self, name: str, sql: str, **values: Any) -> Verdict:
        ((examined, violations, jobs),) = await self._all(sql, **values)
        return Verdict(name, examined, violations, jobs)

    async def _all(self, sql: str, **values: Any) -> list[Any]:
        cursor = await self._connection.cursor(row_factory=tuple_row).execute(sql.encode(), values)
        return await cursor.fetchall()

    def _add(self, name: str, examined: int, violations: int, jobs: Sequence[str] = ()) -> None:
        self.verdicts.append(Verdict(name, examined, violations, list(jobs)[:10]))


def _sum(one: Verdict, other: Verdict) -> Verdict:
    jobs = [*one.jobs, *other.jobs][:10]
    return Verdict(one.name, one.examined + other.examined, one.violations + other.violations, jobs)


def _misplaced(cron: str, timezone: str, catch_up: str, times: Sequence[datetime]) -> list[datetime]:
    """Return the ticks that are at no time of ``cron`` or, where all are caught up, follow one that was passed over.

    A schedule that was changed during the run, or missed more than a hundred times in a row, is none for this.
    """
    wrong = []
    before: datetime | None = None
    for at in times:
        named = next_time(cron, timezone, after=at - timedelta(seconds=1)) == at
        missed = before is not None and catch_up == "all" and next_time(cron, timezone, after=before) != at
        if not named or missed:
            wrong.append(at)
        before = at
    return wrong


def _over_rate(calls: Sequence[Call], rate: Rate) -> list[Call]:
    """Return the calls that were one too many within the window that ends with them; ``calls`` are in order."""
    over = []
    first = 0
    for index, call in enumerate(calls):
        while calls[first].started_at <= call.started_at - rate.per.total_seconds():
            first += 1
        if index - first + 1 > rate.at_most:
            over.append(call)
    return over
