"""The system under test: real servers behind proxies, the processes, a fake provider and a load; and queries on it."""

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import psycopg
from redis import Redis

import tests.support.proving.stages  # noqa: F401 - registers the proving stages
from tests.chaos.bounds import MeasuredTime, allowance
from tests.chaos.crew import Crew
from tests.chaos.evidence import Evidence
from tests.chaos.front import Front
from tests.chaos.proxy import Proxy
from tests.chaos.service import Access
from tests.chaos.workload import Workload
from tests.e2e.system import System, running_system
from tests.support.fakes.openai_server import FakeOpenAI
from tests.support.proving.models import LIMIT
from workers.operations.keyring import new_key
from workers.runtime.handler.registry import discover

# The values of tests/support/proving/__main__.py and of workers/runtime/dispatch/leader.py.
LEASE_SECONDS, RESCUE_TICK_SECONDS, GRACE_SECONDS = 3.0, 1.0, 5.0
REDISPATCH_SECONDS = 2.0
START_SECONDS = 120.0
SLOTS = 40
GATEWAYS = 2
MEMORY_MEGABYTES = 3_000
PROFILES = 25
# The calls of the load are limited so that bursts must wait and the load as a whole does not.
PROVIDER = "environment"
CALL_LIMITS: Sequence[tuple[str, int, int | None]] = (
    ("requests", 20, 5),
    ("tokens", 300_000, 10),
    ("concurrency", 12, None),
)
# One call of the load reserves about 2,500 tokens and uses 120, so the second of two calls at once is refused.
POOR, POOR_TOKENS = "poor", 3_000
CRON = "* * * * *"
CATCH_UP = {"chaos.each": "all", "chaos.one": "one", "chaos.skip": "skip", "chaos.more": "all"}


# Every run that has ended: who claimed which job and when, and what ended the run, when and by whom.
RUNS = (
    "SELECT run.job_id AS id, run.changed_by AS worker, run.created_at AS began,"
    " next.change_action AS action, next.created_at AS ended, next.changed_by AS ended_by"
    " FROM runtime.transitions AS run JOIN runtime.transitions AS next"
    " ON next.job_id = run.job_id AND next.version_to = run.version_to + 1 AND run.change_action = 'claim'"
)


class BrokenPromise(AssertionError):
    """The system did not keep the guarantee of a fault."""


@dataclass(slots=True, kw_only=True)
class Arena:
    """The whole system under test, with the handles that faults need.

    - ``brief``: faults keep outages short. ``drains``: the number of workers that a rolling restart stops.
    - ``draw``: the random numbers of the present fault.
    - ``fresh_job_seconds``: how long fresh jobs took before this fault and the earlier ones.
    - ``afterwards``: checks that are possible only after the system is healed and a lease and a second have passed.
    - ``pending``: conditions that must hold before a deadline while other faults run. ``late``: those that did not.
    - ``undisturbed_until``: no fault begins before this time.
    """

    system: System
    crew: Crew
    workload: Workload
    evidence: Evidence
    provider: FakeOpenAI
    draw: random.Random
    postgres_proxy: Proxy
    enqueue_proxy: Proxy
    redis_proxy: Proxy
    provider_proxy: Proxy
    gateway_proxy: Proxy
    front: Front
    brief: bool
    drains: int
    fresh_job_seconds: list[float] = field(default_factory=list)
    measured: list[MeasuredTime] = field(default_factory=list)
    afterwards: list[Callable[[], None]] = field(default_factory=list)
    pending: list[tuple[str, float, Callable[[], bool]]] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    undisturbed_until: float = 0.0
    _next_check_at: float = 0.0

    # ── looking ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def ask(self, sql: str, *values: Any, seconds: float = 30.0) -> list[tuple[Any, ...]]:
        """Return the rows of one statement; repeat it while Postgres is away or has ended the session."""
        give_up = time.monotonic() + seconds
        while True:
            try:
                return self.system.ask(sql, *values)
            except psycopg.OperationalError:
                if time.monotonic() > give_up:
                    raise
                self.rest(0.1)

    def run(self, sql: str, *values: Any) -> None:
        """Execute one statement that returns nothing."""
        self.ask(f"WITH done AS ({sql} RETURNING 1) SELECT count(*) FROM done", *values)

    def wait(self, condition: Callable[[], Any], what: str, *, seconds: float) -> Any:
        """Poll until ``condition`` is true and return its value; raise BrokenPromise after ``seconds``.

        Meanwhile, ended processes are replaced.
        """
        give_up = time.monotonic() + seconds
        while True:
            try:
                if held := condition():
                    return held
            except psycopg.OperationalError:
                pass  # Postgres is away; that may be the fault
            if time.monotonic() > give_up:
                raise BrokenPromise(f"after {seconds:g} s, not yet: {what}")
            self.rest(0.05)

    def rest(self, seconds: float) -> None:
        """Let time pass; meanwhile, replace ended processes and check the pending conditions."""
        end = time.monotonic() + seconds
        while True:
            self.crew.refill()
            self._run_pending_checks()
            left = end - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, 0.1))

    def _run_pending_checks(self) -> None:
        """Once a second, remove the pending conditions that hold, and record the late ones."""
        if time.monotonic() < self._next_check_at:
            return
        self._next_check_at = math.inf  # a condition that calls rest() must not start these checks again
        for one in list(self.pending):
            name, deadline, condition = one
            with suppress(psycopg.OperationalError):
                if condition():
                    self.pending.remove(one)
                    continue
            if time.monotonic() > deadline:
                self.pending.remove(one)
                self.late.append(f"late: {name}")
        self._next_check_at = time.monotonic() + 1.0

    def promise(self, held: object, what: str) -> None:
        """Raise BrokenPromise unless ``held``."""
        if not held:
            raise BrokenPromise(what)

    def granted(self, seconds: float) -> float:
        """Return a bound of the system plus the allowance for this machine."""
        return seconds + allowance(self.fresh_job_seconds)

    def promise_within(self, took: float, seconds: float, what: str) -> None:
        """Record how long ``what`` took; raise BrokenPromise if it exceeds the bound and the allowance."""
        one = MeasuredTime(what, took, seconds, self.granted(seconds))
        self.measured.append(one)
        self.promise(one.kept, str(one))

    def await_crew(self) -> None:
        """Wait until every post has a working process. The time of a start is not promised."""
        self.crew.refill()
        self.wait(self.crew.ready, "every role works", seconds=START_SECONDS)

    def redis(self) -> "Redis":
        """Return a client of Redis that does not use the proxy."""
        return Redis.from_url(self.system.redis_url, socket_timeout=5)

    # ── jobs ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def plain(self, count: int, *, max_retries: int | None = None, **payload: Any) -> list[UUID]:
        """Enqueue ``count`` equal jobs of ``proving.plain``."""
        return self.workload.put("proving.plain", [payload] * count, max_retries=max_retries)

    def states(self, jobs: Sequence[UUID]) -> dict[UUID, str]:
        """Return the state of each of these jobs."""
        return dict(self.ask("SELECT id, status FROM runtime.jobs WHERE id = ANY (%s)", list(jobs)))

    def running_under(self, worker: UUID, *, seconds: float = 0.0) -> list[UUID]:
        """Return the jobs that this worker has been running for at least ``seconds``."""
        rows = self.ask(
            "SELECT id FROM runtime.jobs WHERE lease_owner = %s AND status IN ('processing', 'finishing')"
            " AND started_at <= now() - make_interval(secs => %s)",
            worker,
            seconds,
        )
        return [row[0] for row in rows]

    def steps(self, jobs: Sequence[UUID], action: str, *, since: float) -> dict[UUID, float]:
        """Return when ``action`` was first done to each of these jobs after ``since``, in seconds since the epoch."""
        rows = self.ask(
            "SELECT job_id, extract(epoch FROM min(created_at))::float8 FROM runtime.transitions"
            " WHERE job_id = ANY (%s) AND change_action = %s AND created_at > to_timestamp(%s) GROUP BY job_id",
            list(jobs),
            action,
            since,
        )
        return dict(rows)

    def slowest(self, stage: str, jobs: Sequence[UUID]) -> float | None:
        """Return how long the slowest of these jobs took from enqueue to end; None if one has not ended.

        It reads only the table of these jobs, because another table may be locked.
        """
        took = "SELECT extract(epoch FROM max(completed_at - created_at))::float8, count(completed_at)"
        ((longest, ended),) = self.ask(f"{took} FROM {self.workload.table(stage)} WHERE id = ANY (%s)", list(jobs))
        return float(longest) if ended == len(jobs) else None

    def measure_fresh_job(self) -> None:
        """Measure how long a fresh job takes now. During a long fault, the load of the machine may change."""
        jobs = self.plain(1, priority=1)
        took = self.wait(lambda: self.slowest("proving.plain", jobs), "a fresh job ends", seconds=START_SECONDS)
        self.fresh_job_seconds.append(took)

    def leases_lost(self, workers: Sequence[UUID], *, since: float = 0.0) -> int:
        """Count the runs of these workers that a rescue ended after ``since``."""
        return len(self.ended(workers, "rescue", since=since))

    def ended(self, workers: Sequence[UUID], action: str, *, since: float = 0.0) -> list[tuple[UUID, UUID]]:
        """Return worker and job of every run of these workers that ``action`` ended after ``since``."""
        return self.ask(
            f"SELECT split_part(worker, ':', 2)::uuid, id FROM ({RUNS}) AS runs"
            " WHERE worker = ANY (%s) AND action = %s AND ended > to_timestamp(%s)",
            [f"worker:{worker}" for worker in workers],
            action,
            since,
        )

    def full_seconds(self) -> int:
        """Return how many seconds a key of ``proving.keyed`` was at its limit; the maximum over all keys."""
        ((seconds,),) = self.ask(
            f"WITH runs AS (SELECT key, began, ended FROM ({RUNS}) AS run JOIN proving.keyed_jobs USING (id)),"
            " edges AS (SELECT key, began AS at, 1 AS change FROM runs UNION ALL SELECT key, ended, -1 FROM runs),"
            " swept AS (SELECT key, lead(at) OVER turns - at AS lasted, sum(change) OVER turns AS running"
            " FROM edges WINDOW turns AS (PARTITION BY key ORDER BY at, change ROWS UNBOUNDED PRECEDING)),"
            " full_times AS (SELECT sum(lasted) AS lasted FROM swept WHERE running >= %s GROUP BY key)"
            " SELECT coalesce(extract(epoch FROM max(lasted)), 0)::int FROM full_times",
            LIMIT,
        )
        return int(seconds)

    def check_later(self, name: str, condition: Callable[[], bool], *, within: float) -> None:
        """Require that ``condition`` holds within ``within`` seconds, while other faults run.

        The condition must not wait for Postgres.
        """
        self.pending.append((name, time.monotonic() + within, condition))


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    return parts.hostname, parts.port


def _through(url: str, proxy: Proxy) -> str:
    host, port = _address(url)
    return url.replace(f"{host}:{port}", f"127.0.0.1:{proxy.port}")


@contextmanager
def opened_arena(folder: Path, *, seed: int, rate: float, brief: bool, drains: int) -> Iterator[Arena]:
    """Start everything, yield the arena when every role works and the load runs; at the end, stop everything."""
    with ExitStack() as stack:
        system = stack.enter_context(running_system(folder))
        provider = stack.enter_context(FakeOpenAI())
        targets = (system.database_url, system.database_url, system.redis_url, provider.url, system.database_url)
        proxies = [stack.enter_context(Proxy(_address(url), seed=seed)) for url in targets]
        system.environment = {
            "DATABASE_URL": _through(system.database_url, proxies[0]),
            "REDIS_URL": _through(system.redis_url, proxies[2]),
            "no_proxy": "*",
        }
        evidence = Evidence()
        workload = Workload(
            system.database_url,
            _through(system.database_url, proxies[1]),
            registry=discover(),
            evidence=evidence,
            seed=seed,
            rate=rate,
        )
        stack.callback(workload.close)
        arena = Arena(
            system=system,
            crew=Crew(system),
            workload=workload,
            evidence=evidence,
            provider=provider,
            draw=random.Random(seed),
            postgres_proxy=proxies[0],
            enqueue_proxy=proxies[1],
            redis_proxy=proxies[2],
            provider_proxy=proxies[3],
            gateway_proxy=proxies[4],
            front=Front.of(system.database_url, gateways=GATEWAYS),
            brief=brief,
            drains=drains,
        )
        _prepare(arena, model_url=_through(provider.url, proxies[3]))
        workload.start()
        yield arena


def _limit_calls(arena: Arena) -> None:
    """Set a price, limits that keep some calls back, and budgets. One profile has a budget that is soon spent."""
    arena.run(
        "INSERT INTO llm.prices (provider, model, input_per_million, output_per_million) VALUES (%s, '*', 1, 2)",
        PROVIDER,
    )
    for measure, at_most, window in CALL_LIMITS:
        arena.run(
            "INSERT INTO llm.limits (provider, measure, at_most, window_seconds) VALUES (%s, %s, %s, %s)",
            PROVIDER,
            measure,
            at_most,
            window,
        )
    budgets: Sequence[tuple[object, ...]] = (
        ("all", "all", None, "day", 1_000, None),
        ("scoring", "stage", "scoring.score", "total", None, 10**12),
        (POOR, "profile", str(arena.workload.profiles[0]), "total", None, POOR_TOKENS),
    )
    for budget in budgets:
        arena.run(
            'INSERT INTO llm.budgets (name, scope, scope_value, "window", usd, tokens, "then")'
            " VALUES (%s, %s, %s, %s, %s, %s, 'stop')",
            *budget,
        )


def _prepare(arena: Arena, *, model_url: str) -> None:
    rows = arena.ask(
        "INSERT INTO scoring.profiles (name) SELECT 'p' || n FROM generate_series(1, %s) AS n RETURNING id", PROFILES
    )
    arena.workload.profiles = [row[0] for row in rows]
    _limit_calls(arena)
    for name, catch_up in CATCH_UP.items():
        arena.run(
            "INSERT INTO runtime.schedules (name, stage, payload, cron, catch_up)"
            " VALUES (%s, 'proving.plain', '{\"act\": \"write\"}', %s, %s)",
            name,
            CRON,
            catch_up,
        )
    arena.run("INSERT INTO runtime.schedules (name, action, cron) VALUES ('chaos.prune', 'prune', %s)", CRON)
    secret_key = new_key()
    options = {"slots": SLOTS, "memory_megabytes": MEMORY_MEGABYTES, "model_url": model_url, "log_repeats": True}
    options["secret_key"] = secret_key
    arena.crew.hire("worker", 2, admitted=True, **options)
    arena.crew.hire("dispatcher", 2, log_repeats=True)
    arena.crew.hire("beat", 2)
    for url in arena.front.urls:
        through = _through(arena.system.database_url, arena.gateway_proxy)
        port = urlsplit(url).port
        arena.crew.hire("gateway", 1, port=port, secret_key=secret_key, database_url=through)
    arena.await_crew()
    arena.workload.open_service(arena.front.urls, _make_access(arena))


def _make_access(arena: Arena) -> Access:
    """Add a tenant with a profile; return it with keys of its own and of an operator."""
    tenant = arena.ask("INSERT INTO auth.users (email) VALUES (%s) RETURNING id", "tenant@example.test")[0][0]
    arena.run("UPDATE operations.profiles SET role = 'USER' WHERE id = %s", tenant)
    (profile,) = arena.ask(
        "WITH actor AS MATERIALIZED (SELECT set_config('gristmill.user_id', %s, false) AS id),"
        " made AS (INSERT INTO scoring.profiles (name) SELECT 'of a tenant' FROM actor RETURNING id)"
        " SELECT made.id, set_config('gristmill.user_id', '', false) FROM made",
        str(tenant),
    )
    _, key = arena.front.make_key("jobs:read", "jobs:write", "callbacks", acts_for=tenant)
    _, operator_key = arena.front.make_key("jobs:read", "operate")
    return Access(key=key, operator_key=operator_key, profile_id=profile[0])
