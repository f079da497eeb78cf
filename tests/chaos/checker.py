"""Check a run by ``runtime.transitions``, the job tables, ``runtime.ticks`` and the evidence of the run.

``report = await check(connection, evidence)`` reads one snapshot and changes nothing; ``report.ok``, ``report.failed``
and ``report.render()`` give the result. Call it when the load has ended and the system has healed.

These fields of :class:`tests.chaos.evidence.Evidence` are optional: ``isolated`` and ``isolated_workers`` (a worker
that was frozen or without contact to Postgres could not learn of a cancel or renew its lease), ``spoke_until`` (by
default a worker lives until its last transition), ``aged`` (jobs that were made older for prune). If a case cannot be
decided because a worker was isolated or had died, it is not counted as examined. :mod:`tests.chaos.calls` has the rules
for calls, :mod:`tests.chaos.spend` those for the ledger, limits and budgets, :mod:`tests.chaos.following` those for
callbacks and streams.
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
from tests.chaos import following, queries, spend
from tests.chaos.calls import RELISTEN_SECONDS, CalledRun, judge_calls
from tests.chaos.evidence import Evidence
from tests.chaos.ticks import Fired, misfired
from workers.runtime.database import Raw
from workers.runtime.handler.limits import Limit
from workers.runtime.handler.registry import Registry, discover
from workers.runtime.store.rescue import DEADLINE_MARGIN
from workers.runtime.store.tables import JobTable, job_table
from workers.runtime.store.verify import verify_history

CANCEL_GRACE = timedelta(seconds=2)
# A worker that can receive logs a lost run within this time, with handlers that yield, on a busy machine.
LOG_LOST_RUN_WITHIN = timedelta(seconds=10)
# A claim of this age has been answered, and its run has begun.
BEGUN = timedelta(seconds=1.5)
MOVING = ("dispatched, waiting for a slot", "ready, waiting for the dispatcher")


@dataclass(frozen=True, slots=True)
class RuleVerdict:
    """One rule: how many things were examined, how many broke the rule, and up to ten of these."""

    name: str
    examined: int
    violations: int
    jobs: Sequence[str] = ()


@dataclass(slots=True)
class CheckReport:
    """Every verdict of one run. ``times_full``: how many reservations and calls used up a limit of calls."""

    verdicts: list[RuleVerdict] = field(default_factory=list)
    seconds: float = 0.0
    times_full: Mapping[str, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return not self.failed

    @property
    def failed(self) -> list[str]:
        """The names of the rules that were broken."""
        return [verdict.name for verdict in self.verdicts if verdict.violations]

    @property
    def idle(self) -> list[str]:
        """The names of the rules that examined nothing. Such a rule proves nothing."""
        return [verdict.name for verdict in self.verdicts if not verdict.examined]

    def __getitem__(self, name: str) -> RuleVerdict:
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
    log_lost_run_within: timedelta = LOG_LOST_RUN_WITHIN,
    limits: Mapping[str, Limit] | None = None,
) -> CheckReport:
    """Check the data of a run against every promise, in one snapshot.

    - ``patience``: how long a job that can move (running, or ready for the dispatcher) may have been without a change.
    - ``lease``: the shortest lease of the workers of the run.
    - ``log_lost_run_within``: a worker that lives this long after it lost a run must have logged it.
    - ``limits``: of running jobs; by default those that the stages declare. Limits and budgets of calls are those of
      operators in ``llm.limits`` and ``llm.budgets``.

    If the connection has an open transaction, the check reads what that transaction sees.
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
        await checking.lost_runs(log_lost_run_within)
        await checking.limits(stages, _declared(stages) if limits is None else limits)
        await checking.schedules()
        await checking.ends(grace)
        await checking.spend()
        await checking.service()
    return CheckReport(checking.verdicts, time.monotonic() - started, times_full=checking.times_full)


def _declared(stages: Registry) -> dict[str, Limit]:
    return {stage.name: stage.limit for stage in stages.values() if stage.limit}


class _Checking:
    """One check. Each method adds the verdicts of one subject."""

    def __init__(self, connection: Raw, evidence: Evidence) -> None:
        self.verdicts: list[RuleVerdict] = []
        self._connection = connection
        self._evidence = evidence
        self._tables: list[JobTable] = []
        self.times_full: Mapping[str, int] = {}

    async def prepare(self) -> None:
        for statement in (queries.SETTINGS, queries.STEPS, queries.HELD, queries.ANALYZE):
            await self._connection.execute(statement.encode())
        rows = await self._all("SELECT table_name FROM runtime.lifecycles")
        known = {name for (name,) in rows}
        tables = [job_table(model) for model in list_mapped(Job)]
        self._tables = [table for table in tables if table.label in known]

    async def jobs(self, patience: timedelta) -> None:
        """No job is lost, stuck, enqueued twice or pruned too early."""
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
        """Each run is settled by its claimant, has its effect once and counts its attempts; rescues are justified."""
        await self._judge("runs settled by their claimant", queries.SETTLED_BY_CLAIMANT)
        await self._effects()
        await self._judge("attempts counted", queries.ATTEMPTS)
        await self._judge(
            "only the silent are rescued",
            queries.RESCUES,
            lease=lease,
            margin=DEADLINE_MARGIN,
            **self._isolation_values(),
        )

    def _isolation_values(self) -> dict[str, list[Any]]:
        """Return the times of isolation as parameters of the statements, with the time to listen again."""
        spans = list(self._evidence.isolations())
        return {
            "since": [since for since, _, _ in spans],
            "until": [until + RELISTEN_SECONDS for _, until, _ in spans],
            "isolated": [worker for _, _, worker in spans],
        }

    async def _effects(self) -> None:
        found = RuleVerdict("effects committed once", 0, 0)
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

    async def lost_runs(self, log_lost_run_within: timedelta) -> None:
        """Workers log a run as lost only if somebody else changed the job, and they log each such run once."""
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
            **self._isolation_values(),
            living=[f"worker:{worker}" for worker in spoke],
            spoke=list(spoke.values()),
            cancelled=cancelled,
            within=log_lost_run_within,
            begun=BEGUN,
        )

    async def limits(self, stages: Registry, limits: Mapping[str, Limit]) -> None:
        """At every moment, by the clock of the database, no more jobs of a key run than its limit."""
        found = RuleVerdict("running per key within its limit", 0, 0)
        for name, limit in limits.items():
            table = job_table(stages[name].model)
            if table in self._tables:
                sql = queries.within_limit(table.name, table.column["id"], table.column[limit.column])
                found = _sum(found, await self._verdict(found.name, sql, stage=name, at_most=limit.at_most))
        self.verdicts.append(found)

    async def schedules(self) -> None:
        """Each tick has one job and each time one tick; the times are those of the cron and of the catch-up policy."""
        await self._judge("one job per tick", queries.TICKS)
        looks = [at for (at,) in await self._all(queries.LOOKS)]
        examined, wrong = 0, []
        for name, cron, timezone, catch_up, times, fired_at in await self._all(queries.TICK_TIMES):
            ticks = [Fired(*tick) for tick in zip(times, fired_at, strict=True)]
            examined += len(ticks)
            wrong += [f"{name} {what}" for what in misfired(cron, timezone, catch_up, ticks, looks)]
        self._add("ticks at their times", examined, len(wrong), wrong)

    async def ends(self, grace: timedelta) -> None:
        """A cancelled job stays cancelled and starts no call; every call belongs to a run and has the right key."""
        await self._judge("cancelled stays cancelled", queries.CANCELLED, cancelled=list(self._evidence.cancelled))
        runs: dict[UUID, list[CalledRun]] = defaultdict(list)
        for job_id, *run in await self._all(
            queries.CALLED_RUNS, ids=list({call.job_id for call in self._evidence.calls})
        ):
            runs[job_id].append(CalledRun(*run))
        for rule, examined, wrong in judge_calls(self._evidence, runs, grace=grace.total_seconds()):
            self._add(rule, examined, len(wrong), wrong)

    async def spend(self) -> None:
        """Each call is in the ledger, as the provider counts it, and within its limits and budgets."""
        calls = self._evidence.calls
        rows = [spend.Row(*row) for row in await self._all(spend.ROWS)]
        limits = [spend.Limit(*row) for row in await self._all(spend.LIMITS)]
        budgets = [spend.Budget(*row) for row in await self._all(spend.BUDGETS)]
        stage_of = dict(await self._all(queries.STAGES_OF, ids=list({call.job_id for call in calls})))
        reserved = spend.judge_reservations(rows, limits)
        rated = spend.judge_rates(calls, rows, limits, stage_of)
        budgeted = spend.judge_budgets(rows, budgets, self._evidence.raised)
        for rule, examined, wrong in (*spend.judge_spend(calls, rows), reserved.verdict, rated.verdict, budgeted):
            self._add(rule, examined, len(wrong), wrong)
        await self._judge("totals are the sum of the ledger", spend.TOTALS)
        self.times_full = {"reservations": reserved.full, "calls": rated.full}

    async def service(self) -> None:
        """Callbacks arrive, signed and true; streams show each transition once, and a tenant only its own."""
        asked = list(self._evidence.with_callback)
        ends = {job: following.End(*end) for job, *end in await self._all(following.ENDS, ids=asked)}
        jobs = set(self._evidence.committed) if self._evidence.streams else set()
        versions = [(job, version) for job, version in await self._all(following.VERSIONS, ids=list(jobs))]
        deliveries = {job for (job,) in await self._all(following.DELIVERIES, ids=asked)}
        told = (
            *following.judge_callbacks(self._evidence, ends),
            *following.judge_streams(self._evidence, versions, deliveries),
        )
        for rule, examined, wrong in told:
            self._add(rule, examined, len(wrong), wrong)

    async def _judge(self, name: str, sql: str, **values: Any) -> None:
        self.verdicts.append(await self._verdict(name, sql, **values))

    async def _verdict(self, name: str, sql: str, **values: Any) -> RuleVerdict:
        ((examined, violations, jobs),) = await self._all(sql, **values)
        return RuleVerdict(name, examined, violations, jobs)

    async def _all(self, sql: str, **values: Any) -> list[Any]:
        cursor = await self._connection.cursor(row_factory=tuple_row).execute(sql.encode(), values)
        return await cursor.fetchall()

    def _add(self, name: str, examined: int, violations: int, jobs: Sequence[str] = ()) -> None:
        self.verdicts.append(RuleVerdict(name, examined, violations, list(jobs)[:10]))


def _sum(one: RuleVerdict, other: RuleVerdict) -> RuleVerdict:
    jobs = [*one.jobs, *other.jobs][:10]
    return RuleVerdict(one.name, one.examined + other.examined, one.violations + other.violations, jobs)
