"""Inject every fault of the matrix into a running system, measure how it heals, and check its history."""

import asyncio
import math
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import psycopg

from tests.chaos.arena import (
    LEASE_SECONDS,
    POOR,
    POOR_TOKENS,
    RESCUE_TICK_SECONDS,
    Arena,
    BrokenPromise,
    opened_arena,
)
from tests.chaos.bounds import MeasuredTime
from tests.chaos.checker import CheckReport, check
from tests.chaos.faults import MAX_HEAL_SECONDS, Fault, matrix
from tests.chaos.faults.provider import EVERYDAY
from tests.chaos.report import Injection, NemesisOutcome
from tests.e2e.system import Role
from workers.runtime.handler.errors import describe

# If the system does not heal within its bound, it is watched until this time. Then the run is aborted.
MAX_HEALING_SECONDS = 90.0
MAX_SETTLING_SECONDS = 150.0
MAX_CATCHING_UP = 30.0
CALM_SECONDS = 0.5
# How often, and with how many jobs, it is tested whether workers learn of cancels.
CANCEL_CHECK_SECONDS, CANCELLED_AT_ONCE = 2.0, 4
# A job that can move counts as stuck after this time without a change.
PATIENCE = timedelta(seconds=15)
# The lease for the checker. On a machine with more processes than cores, a heartbeat may be up to two seconds late.
JUDGED_LEASE = timedelta(seconds=LEASE_SECONDS - 2.0)
RATE = 12.0
DRAINS_BRIEF, DRAINS = 3, 20
DELIVER = "notifications.deliver"
AGED_AT_ONCE = 20
# The minimum share of the load's time in which a key must be at its limit.
MIN_FULL_SHARE = 1 / 4
# These faults come first, because their checks go on while other faults run, or because they would disturb such checks.
# Each begins when the checks of the one before are done. In a brief run, one fault of every area follows (CORE), also
# if the time is over. The faults that wait for processes to start come last.
IN_TURN = (
    "beat_paused_across_ticks",
    "both_beats_paused_across_ticks",
    "beat_dies_with_its_tick",
    "postgres_half_open",
)
CORE = (
    "worker_killed",
    "dispatcher_dies_before_it_publishes",
    "leader_killed",
    "sessions_terminated",
    "redis_flushed",
    "messages_garbled",
    "handler_crashes_the_interpreter",
    "provider_fails",
    "cancel_raced",
    "decisions_raced",
    "tenant_means_harm",
    "gateway_killed",
)
SLOW = ("processes", "crashes", "handlers")


def run(folder: Path, *, seed: int, minutes: float, only: Sequence[str] = (), brief: bool = False) -> NemesisOutcome:
    """Inject every fault once in an order chosen by ``seed``, then more of them until the time is over; check it all.

    ``only`` restricts the faults by name. A ``brief`` run injects the brief faults, each once, while there is time. It
    injects those of ``CORE`` also if the time is over.
    """
    names = "".join(f" --only {name}" for name in only)
    span = f"{' --brief' if brief else ''} --minutes {minutes:g}"
    outcome = NemesisOutcome(seed, f"python -m tests.chaos --seed {seed}{span}{names}")
    started = time.monotonic()
    injected: Counter[str] = Counter()
    faults = [fault for fault in matrix().values() if (fault.name in only if only else fault.brief or not brief)]
    drains = DRAINS_BRIEF if brief else DRAINS
    with (
        _record_broken_promise(outcome),
        opened_arena(folder, seed=seed, rate=RATE, brief=brief, drains=drains) as arena,
    ):
        arena.provider.script(mix=list(EVERYDAY), seed=seed)
        _say(f"everything runs after {time.monotonic() - started:.0f} s")
        until = time.monotonic() + 60 * minutes
        with _record_broken_promise(outcome):
            for fault in _plan(arena, faults, random.Random(seed), until=until, brief=brief, once=bool(only)):
                if brief and time.monotonic() > until and fault.name not in CORE:
                    outcome.skipped.append(fault.name)
                    continue
                injected[fault.name] += 1
                arena.draw = random.Random(f"{seed}:{fault.name}:{injected[fault.name]}")
                outcome.injections.append(_inject(arena, fault))
                _age_some(arena)
            _end(arena, outcome)
        if outcome.checked and not only and not brief:
            with _record_broken_promise(outcome):
                idle = outcome.checked.idle
                arena.promise(not idle, f"rules that examined nothing: {', '.join(idle)}")
        outcome.problems += arena.crew.unexpected + arena.late
    outcome.seconds = time.monotonic() - started
    return outcome


def _plan(
    arena: Arena, faults: Sequence[Fault], draw: random.Random, *, until: float, brief: bool, once: bool
) -> Iterator[Fault]:
    """Yield every fault once. A brief run begins with ``CORE``; other runs continue until the time is over."""
    in_turn = sorted((fault for fault in faults if fault.name in IN_TURN), key=lambda fault: IN_TURN.index(fault.name))
    rest = [fault for fault in faults if fault not in in_turn]
    others = list(rest)
    draw.shuffle(rest)
    if brief:
        rest.sort(key=lambda fault: (fault.name not in CORE, fault.area in SLOW))
    while in_turn or rest:
        while arena.pending and not rest:
            arena.rest(0.2)
        yield (rest if arena.pending or not in_turn else in_turn).pop(0)
    while not brief and not once and time.monotonic() < until:
        yield draw.choice(others if arena.pending else faults)


def _inject(arena: Arena, fault: Fault) -> Injection:
    """Inject one fault, and measure how long the system takes to heal."""
    problems: list[str] = []
    measured_before = len(arena.measured)
    _await_calm(arena, fault)
    started = time.monotonic()
    with _collect_problems(problems):
        fault.act(arena)
    lasted = time.monotonic() - started
    ended_at = time.time()
    healed_after = _await_healed(arena, ended_at)
    if fault.lingers:
        healed_after = max(healed_after, _await_reachable(arena, ended_at))
    if fault.isolates:
        arena.evidence.isolated.append((ended_at - lasted, ended_at + (healed_after if fault.lingers else 0.0)))
    bound = arena.granted(fault.heals_within)
    # A half-open connection has a minute to be detected. The next fault begins after that, so it is not blamed for it.
    arena.undisturbed_until = ended_at + (fault.heals_within if fault.heals_within > MAX_HEAL_SECONDS else 0.0)
    if healed_after > bound:
        problems.append(
            f"healed after {healed_after:.1f} s; {fault.heals_within:g} s are promised, {bound:.1f} s granted"
        )
    with _collect_problems(problems):
        _run_afterwards(arena)
    problems += arena.crew.unexpected
    arena.crew.unexpected.clear()
    times = f"fresh job {arena.fresh_job_seconds[-1]:4.1f} s, lasted {lasted:5.1f} s, healed {healed_after:5.1f} s"
    _say(f"{fault.name:<38} {times}  {'; '.join(problems)}")
    if math.isinf(healed_after):
        raise BrokenPromise(f"{fault.name}: the system did not heal in {MAX_HEALING_SECONDS:g} s")
    return Injection(fault, lasted, healed_after, bound, problems, arena.measured[measured_before:])


def _await_calm(arena: Arena, fault: Fault) -> None:
    """Check that the system is healed before a fault, and measure a fresh job: the allowance depends on it."""
    arena.rest(max(CALM_SECONDS, arena.undisturbed_until - time.time()))
    calm = _await_healed(arena, time.time())
    arena.fresh_job_seconds.append(calm)
    if math.isinf(calm):
        raise BrokenPromise(f"before {fault.name}: not every worker took a job in {MAX_HEALING_SECONDS:g} s")
    # No allowance here: the allowance is computed from this time.
    one = MeasuredTime("every worker takes a job, nothing hurt", calm, MAX_HEAL_SECONDS, MAX_HEAL_SECONDS)
    arena.measured.append(one)
    if not one.kept:
        arena.late.append(f"before {fault.name}: {one}")


def _run_afterwards(arena: Arena) -> None:
    """Run the checks that a fault left for later, when every lost lease has led to a rescue."""
    if arena.afterwards:
        arena.rest(LEASE_SECONDS + RESCUE_TICK_SECONDS)
    for look in arena.afterwards:
        look()
    arena.afterwards.clear()


def _await_healed(arena: Arena, ended_at: float) -> float:
    """Wait until a fresh job is completed and every worker has taken one; return the seconds since ``ended_at``."""
    give_up = ended_at + MAX_HEALING_SECONDS
    (probe,) = arena.plain(1, priority=1)
    while time.time() < give_up:
        arena.rest(0.1)
        workers = [f"worker:{worker}" for worker in arena.crew.worker_ids()]
        found = arena.ask(
            "SELECT extract(epoch FROM min(created_at))::float8 FROM runtime.transitions"
            " WHERE created_at > to_timestamp(%s) AND (change_action = 'claim' AND changed_by = ANY (%s)"
            " OR change_action = 'complete' AND job_id = %s) GROUP BY change_action, changed_by",
            ended_at,
            workers,
            probe,
        )
        if len(workers) == len(arena.crew.of("worker")) and len(found) == len(workers) + 1:
            return float(max(at for (at,) in found)) - ended_at
    return math.inf


def _await_reachable(arena: Arena, ended_at: float) -> float:
    """Wait until every worker can send and receive again; return the seconds since ``ended_at``.

    A worker can send if its heartbeat is newer. It can receive if it stops a run after a cancel.
    """
    beating = "SELECT count(*) FROM runtime.workers WHERE id = ANY (%s) AND heartbeat_at > to_timestamp(%s)"
    cancelled: list[UUID] = []
    again_at = 0.0
    while time.time() < ended_at + MAX_HEALING_SECONDS:
        if time.time() > again_at:
            again_at = time.time() + CANCEL_CHECK_SECONDS
            jobs = arena.plain(CANCELLED_AT_ONCE, seconds=2 * CANCEL_CHECK_SECONDS, priority=1)
            arena.workload.cancel_later([("proving.plain", job) for job in jobs], within=CANCEL_CHECK_SECONDS / 2)
            cancelled += jobs
        workers = arena.crew.worker_ids()
        reachable = [role for role in workers.values() if _stopped_any(role, cancelled)]
        if len(reachable) == len(arena.crew.of("worker")) == arena.ask(beating, list(workers), ended_at)[0][0]:
            return time.time() - ended_at
        arena.rest(0.2)
    return math.inf


def _stopped_any(role: Role, jobs: Sequence[UUID]) -> bool:
    stopped = [line for line in role.lines() if "run_stopped" in line]
    return any(str(job) in line for line in stopped for job in jobs)


def _age_some(arena: Arena) -> None:
    """Make some ended jobs older than the retention of their table, so that prune finds them."""
    ended = arena.ask("SELECT id FROM proving.plain_jobs WHERE completed_at > now() - interval '1 hour' ORDER BY id")
    # Without the guards: they refuse a change of completed_at.
    rows = arena.ask(
        "WITH off AS MATERIALIZED (SELECT set_config('session_replication_role', 'replica', true) AS role)"
        " UPDATE proving.plain_jobs SET completed_at = completed_at - interval '2 days' FROM off"
        " WHERE role <> '' AND id IN ("
        " SELECT id FROM proving.plain_jobs WHERE id = ANY (%s) FOR UPDATE SKIP LOCKED) RETURNING id",
        arena.draw.sample([job for (job,) in ended], min(AGED_AT_ONCE, len(ended))),
    )
    arena.evidence.aged |= {row[0] for row in rows}


def _end(arena: Arena, outcome: NemesisOutcome) -> None:
    """Wait for the pending checks, stop the load, wait until every job ends, drain all processes, check the history."""
    while arena.pending:
        arena.rest(0.2)
    arena.workload.stop()
    loaded = time.monotonic() - arena.workload.started_at
    _raise_budget(arena)
    # Nothing hurts any more. With failures by chance, the time to the last end would be a matter of luck.
    arena.provider.script(mix=[{"kind": "answer"}])
    arena.run("UPDATE runtime.schedules SET enabled = false")
    live = (
        "SELECT (SELECT count(*) FROM runtime.jobs WHERE completed_at IS NULL) + (SELECT count(*) FROM runtime.notices)"
    )
    _say(f"the load has stopped; jobs that are left: {_left(arena)}")
    with _record_broken_promise(outcome):
        try:
            arena.wait(
                lambda: not _cut_delays(arena) and not arena.ask(live)[0][0],
                "every job ends",
                seconds=MAX_SETTLING_SECONDS,
            )
        except BrokenPromise as error:
            raise BrokenPromise(f"{error}; left: {_left(arena)}") from None
    with _record_broken_promise(outcome):
        arena.wait(lambda: _streams_are_complete(arena), "the streams show every transition", seconds=MAX_CATCHING_UP)
    _drain(arena, outcome)
    with _record_broken_promise(outcome):
        arena.wait(lambda: _no_call_is_reserved(arena), "every reservation ends", seconds=MAX_SETTLING_SECONDS)
    evidence = arena.evidence
    evidence.calls, evidence.requests = arena.provider.ledger, arena.provider.calls
    evidence.lost_runs = arena.crew.lost_runs()
    lost = Counter(run.how for run in evidence.lost_runs)
    full = arena.full_seconds()
    with _record_broken_promise(outcome):
        arena.promise(full > MIN_FULL_SHARE * loaded, f"a key was at its limit for only {full} of {loaded:.0f} s")
    outcome.checked = _judge(arena)
    refused = arena.ask("SELECT count(*) FROM llm.budget_warnings WHERE threshold = 1")[0][0]
    states = dict(arena.ask("SELECT state, count(*) FROM llm.calls GROUP BY state"))
    with _record_broken_promise(outcome):
        arena.promise(outcome.checked.times_full["reservations"], "no limit of calls was ever used up")
        arena.promise(refused, "no budget was ever spent")
    outcome.counts = {
        "jobs acknowledged": len(evidence.committed),
        "answers lost for good": len(evidence.unsure),
        "cancels acknowledged": len(evidence.cancelled),
        "callbacks": len(evidence.messages),
        "events of streams": sum(len(stream.shown) for stream in evidence.streams.values()),
        "calls of the provider": evidence.requests,
        "calls at a limit": outcome.checked.times_full["reservations"],
        **{f"calls {state} in the ledger": count for state, count in sorted(states.items())},
        "stale writes rejected": lost["stale_write_rejected"],
        "runs stopped": lost["run_stopped"],
        "seconds of a key at its limit": full,
        "answers kept by the proxy": arena.postgres_proxy.answers_dropped + arena.enqueue_proxy.answers_dropped,
        "processes started": len(arena.system.roles),
        "rescues": arena.ask("SELECT count(*) FROM runtime.transitions WHERE change_action = 'rescue'")[0][0],
        "transitions": arena.ask("SELECT count(*) FROM runtime.transitions")[0][0],
    }


def _left(arena: Arena) -> str:
    """Say how many jobs have not ended, by stage, state and what happened to them last."""
    rows = arena.ask(
        "SELECT job.stage, job.status, concat_ws(': ', last.change_action, last.change_reason), count(*)"
        " FROM runtime.jobs AS job LEFT JOIN runtime.transitions AS last"
        " ON last.job_id = job.id AND last.version_to = job.version"
        " WHERE job.completed_at IS NULL GROUP BY 1, 2, 3 ORDER BY 4 DESC LIMIT 12"
    )
    return "; ".join(f"{number} {stage} {state} ({last})" for stage, state, last, number in rows) or "none"


def _streams_are_complete(arena: Arena) -> bool:
    """Return whether each stream has as many transitions of the load's jobs as there are."""
    evidence = arena.evidence
    count = "SELECT count(*) FROM runtime.transitions WHERE job_id = ANY (%s)"
    for stream in evidence.streams.values():
        wanted = evidence.committed.keys() if stream.owned is None else stream.owned
        shown = sum(job in wanted for job, _ in stream.shown)
        if shown < arena.ask(count, list(wanted))[0][0]:
            return False
    return True


def _raise_budget(arena: Arena) -> None:
    """Raise the budget that is spent, as an operator does, so that its jobs go on."""
    arena.evidence.raised[POOR] = (time.time(), POOR_TOKENS)
    arena.run("UPDATE llm.budgets SET tokens = 1000000000 WHERE name = %s", POOR)


def _no_call_is_reserved(arena: Arena) -> bool:
    """Give up what ended processes reserved, as maintenance does; return whether nothing is left."""
    arena.ask("SELECT llm.orphan_calls(p_grace => '0')")
    return arena.ask("SELECT count(*) FROM llm.calls WHERE state = 'reserved'") == [(0,)]


def _cut_delays(arena: Arena) -> int:
    """End all back-offs and snoozes, because waiting for them proves nothing; return their number."""
    tables = {arena.workload.table(stage) for stage in (*set(arena.evidence.committed.values()), DELIVER)}
    hurry = "UPDATE {} SET due_at = NULL WHERE due_at > now() AND change_action IN ('retry', 'rescue', 'snooze')"
    return sum(len(arena.ask(f"{hurry.format(table)} RETURNING id")) for table in tables)


def _drain(arena: Arena, outcome: NemesisOutcome) -> None:
    roles = [post.role for post in arena.crew.posts]
    for role in roles:
        role.terminate()
    for role in roles:
        with _record_broken_promise(outcome):
            code = role.exit_code(within=30.0)
            arena.promise(code == 0, f"{role.kind} {role.pid} ended with status {code}")


def _judge(arena: Arena) -> CheckReport:
    async def judge() -> CheckReport:
        async with await psycopg.AsyncConnection.connect(arena.system.database_url, autocommit=True) as connection:
            return await check(connection, arena.evidence, patience=PATIENCE, lease=JUDGED_LEASE)

    return asyncio.run(judge())


@contextmanager
def _collect_problems(problems: list[str]) -> Iterator[None]:
    """Record any error of a fault and continue: the system must heal after every fault."""
    try:
        yield
    except BrokenPromise as broken:
        problems.append(str(broken))
    except Exception as error:  # noqa: BLE001 - an error must not end the run
        problems.append(describe(error))


@contextmanager
def _record_broken_promise(outcome: NemesisOutcome) -> Iterator[None]:
    """Record a broken promise and continue."""
    try:
        yield
    except AssertionError as broken:
        outcome.problems.append(str(broken))


def _say(line: str, *, out: Callable[[str], object] = sys.stdout.write) -> None:
    out(f"{time.strftime('%H:%M:%S')}  {line}\n")
    sys.stdout.flush()
