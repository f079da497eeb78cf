"""Judge a run by what it left: ``runtime.transitions``, the job tables, ``runtime.ticks`` and the run's evidence.

``report = await check(connection, evidence)`` reads one snapshot and changes nothing; ``report.ok``, ``report.failed``
and ``print(report.render())`` say what it found. Call it when the workload has ended and everything has healed.

Of :class:`tests.chaos.evidence.Evidence`, what may be left out: ``deaf`` and ``deaf_alone`` (a worker that was frozen
or cut off from Postgres could not hear of a cancel nor renew its lease), ``spoke_until`` (a worker is taken to live as
long as it makes transitions), ``aged`` (jobs moved back in time for prune to find). What cannot be judged because a
worker was deaf or died is not among the examined. What is promised of calls says :mod:`tests.chaos.calls`.
"""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

import tests.support.proving.stages  # noqa: F401 - registers the proving stages
from models import list_mapped
from models.lifecycle import Job
from tests.chaos import queries
from tests.chaos.calls import HEARS_AGAIN_SECONDS, CalledRun, judge_calls
from tests.chaos.evidence import Call, Evidence
from tests.chaos.ticks import Fired, misfired
from workers.runtime.database import Raw
from workers.runtime.handler.limits import Limit
from workers.runtime.handler.registry import Registry, discover
from workers.runtime.store.rescue import DEADLINE_MARGIN
from workers.runtime.store.tables import JobTable, job_table
from workers.runtime.store.verify import verify_history

CANCEL_GRACE = timedelta(seconds=2)
# A worker that hears calls a lost run lost within this, with handlers that yield and a machine that is busy.
CALLED_WITHIN = timedelta(seconds=10)
# A claim so old has been answered, and its run has begun.
BEGUN = timedelta(seconds=1.5)
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

    @property
    def idle(self) -> list[str]:
        """The names of the rules that had nothing to look at, which proves nothing."""
        return [verdict.name for verdict in self.verdicts if not verdict.examined]

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
    called_within: timedelta = CALLED_WITHIN,
    limits: Mapping[str, Limit] | None = None,
    rates: Mapping[str, Rate] | None = None,
) -> Report:
    """Hold everything a run left against every promise, in one snapshot.

    ``patience`` is how long a job that can move (running, or ready for the dispatcher) may have stood still. ``lease``
    is the shortest lease of the run's workers. A worker that lived on for ``called_within`` after a run of its was lost
    has said so. ``limits`` are those that the stages declare unless given; ``rates``
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
        await checking.lost_runs(called_within)
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
        tables = [job_table(model) for model in list_mapped(Job)]
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
            ("none gone before its end", ("lost",), "gone"),
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
            **self._deafness(),
        )

    def _deafness(self) -> dict[str, list[Any]]:
        """Return who was deaf from when until it listened again, as statements take it."""
        spans = list(self._evidence.deafness())
        return {
            "since": [since for since, _, _ in spans],
            "until": [until + HEARS_AGAIN_SECONDS for _, until, _ in spans],
            "deaf": [worker for _, _, worker in spans],
        }

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

    async def lost_runs(self, called_within: timedelta) -> None:
        """What workers stopped or rejected had been moved on by someone else, and of each such run they say so once."""
        said, spoke = self._evidence.lost_runs, self._evidence.spoke_until
        runs = {"ids": [run.job_id for run in said], "fences": [run.fence for run in said]}
        cancelled = list(self._evidence.cancelled)
        await self._judge(
            "runs called lost were lost, once",
            queries.CALLED_LOST,
            **runs,
            said_by=[run.said_by for run in said],
            how=[run.how for run in said],
            cancelled=cancelled,
        )
        await self._judge(
            "lost runs were called lost",
            queries.LOST_UNCALLED,
            **runs,
            **self._deafness(),
            living=[f"worker:{worker}" for worker in spoke],
            spoke=list(spoke.values()),
            cancelled=cancelled,
            within=called_within,
            begun=BEGUN,
        )

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
        """One job per tick, one tick per time; no time but those of the cron text, caught up on by the policy."""
        await self._judge("one job per tick", queries.TICKS)
        looks = [at for (at,) in await self._all(queries.LOOKS)]
        examined, wrong = 0, []
        for name, cron, timezone, catch_up, times, fired_at in await self._all(queries.TICK_TIMES):
            ticks = [Fired(*tick) for tick in zip(times, fired_at, strict=True)]
            examined += len(ticks)
            wrong += [f"{name} {what}" for what in misfired(cron, timezone, catch_up, ticks, looks)]
        self._add("ticks at their times", examined, len(wrong), wrong)

    async def ends(self, grace: timedelta) -> None:
        """What is cancelled stays so and calls nobody; nobody calls but for a run, under the right key."""
        await self._judge("cancelled stays cancelled", queries.CANCELLED, cancelled=list(self._evidence.cancelled))
        runs: dict[UUID, list[CalledRun]] = defaultdict(list)
        for job_id, *run in await self._all(
            queries.CALLED_RUNS, ids=list({call.job_id for call in self._evidence.calls})
        ):
            runs[job_id].append(CalledRun(*run))
        for rule, examined, wrong in judge_calls(self._evidence, runs, grace=grace.total_seconds()):
            self._add(rule, examined, len(wrong), wrong)

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
