"""Hurt a running system with every fault of the matrix, time how it heals, and have its history judged."""

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

from tests.chaos.arena import LEASE_SECONDS, RESCUE_TICK_SECONDS, Arena, BrokenPromise, opened_arena
from tests.chaos.bounds import Measured
from tests.chaos.checker import Report, check
from tests.chaos.faults import HEALS_SECONDS, Fault, matrix
from tests.chaos.faults.provider import EVERYDAY
from tests.chaos.report import Outcome, Wound
from tests.e2e.system import Role
from workers.runtime.handler.errors import describe

# What does not heal in its bound is watched for so long; after that the run is broken off.
GIVEN_UP_SECONDS = 90.0
SETTLED_SECONDS = 150.0
CALM_SECONDS = 0.5
# Whether workers hear of cancels is tried so often, on so many jobs.
HEARING_SECONDS, CANCELLED_AT_ONCE = 2.0, 4
# A job that could move has stood still if nothing happened to it for so long.
PATIENCE = timedelta(seconds=15)
# A machine with more processes than cores delays a heartbeat by up to two seconds, while other statements get through.
SURELY_SHOWN = timedelta(seconds=LEASE_SECONDS - 2.0)
RATE = 12.0
DRAINS_BRIEF, DRAINS = 3, 20
AGED_AT_ONCE = 20
# Of the load's time, how much some key has been at its limit at least, whatever happened.
FULL_SHARE = 1 / 4
# First what goes on in the background of the others, and what would disturb it: each begins once nothing more is to
# come of the one before. In a brief run one fault of every area follows, whatever time it takes, and last comes what
# waits for processes to start.
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
)
SLOW = ("processes", "crashes", "handlers")


def run(folder: Path, *, seed: int, minutes: float, only: Sequence[str] = (), brief: bool = False) -> Outcome:
    """Run every fault once in an order drawn by ``seed``, then more of them until the time is over; judge all of it.

    ``only`` restricts the faults by name. A ``brief`` run takes those marked so, each once while it has time (those of
    ``CORE`` whatever time it takes), and ends.
    """
    names = "".join(f" --only {name}" for name in only)
    span = f"{' --brief' if brief else ''} --minutes {minutes:g}"
    outcome = Outcome(seed, f"python -m tests.chaos --seed {seed}{span}{names}")
    started = time.monotonic()
    injected: Counter[str] = Counter()
    faults = [fault for fault in matrix().values() if (fault.name in only if only else fault.brief or not brief)]
    drains = DRAINS_BRIEF if brief else DRAINS
    with (
        _noted(outcome),
        opened_arena(folder, seed=seed, rate=RATE, brief=brief, drains=drains) as arena,
    ):
        arena.provider.script(mix=list(EVERYDAY), seed=seed)
        _say(f"everything runs after {time.monotonic() - started:.0f} s")
        until = time.monotonic() + 60 * minutes
        with _noted(outcome):
            for fault in _plan(arena, faults, random.Random(seed), until=until, brief=brief, once=bool(only)):
                if brief and time.monotonic() > until and fault.name not in CORE:
                    outcome.skipped.append(fault.name)
                    continue
                injected[fault.name] += 1
                arena.draw = random.Random(f"{seed}:{fault.name}:{injected[fault.name]}")
                outcome.wounds.append(_inject(arena, fault))
                _age_some(arena)
            _end(arena, outcome)
        if outcome.checked and not only and not brief:
            with _noted(outcome):
                idle = outcome.checked.idle
                arena.promise(not idle, f"rules that looked at nothing: {', '.join(idle)}")
        outcome.problems += arena.crew.unasked + arena.late
    outcome.seconds = time.monotonic() - started
    return outcome


def _plan(
    arena: Arena, faults: Sequence[Fault], draw: random.Random, *, until: float, brief: bool, once: bool
) -> Iterator[Fault]:
    """Yield every fault once, in a brief run by how much it would be missed; in others more until the time is over."""
    in_turn = sorted((fault for fault in faults if fault.name in IN_TURN), key=lambda fault: IN_TURN.index(fault.name))
    rest = [fault for fault in faults if fault not in in_turn]
    others = list(rest)
    draw.shuffle(rest)
    if brief:
        rest.sort(key=lambda fault: (fault.name not in CORE, fault.area in SLOW))
    while in_turn or rest:
        while arena.later and not rest:
            arena.rest(0.2)
        yield (rest if arena.later or not in_turn else in_turn).pop(0)
    while not brief and not once and time.monotonic() < until:
        yield draw.choice(others if arena.later else faults)


def _inject(arena: Arena, fault: Fault) -> Wound:
    """Let one fault happen, and measure how long the system takes to be well again."""
    problems: list[str] = []
    measured_before = len(arena.measured)
    _await_calm(arena, fault)
    started = time.monotonic()
    with _listed(problems):
        fault.act(arena)
    lasted = time.monotonic() - started
    ended_at = time.time()
    healed_after = _heal(arena, ended_at)
    if fault.lingers:
        healed_after = max(healed_after, _hear(arena, ended_at))
    if fault.deafens:
        arena.evidence.deaf.append((ended_at - lasted, ended_at + (healed_after if fault.lingers else 0.0)))
    bound = arena.granted(fault.heals_within)
    # What has a minute to be found has the whole of it; the next fault is not to be blamed for the rest.
    arena.undisturbed_until = ended_at + (fault.heals_within if fault.heals_within > HEALS_SECONDS else 0.0)
    if healed_after > bound:
        problems.append(
            f"healed after {healed_after:.1f} s; {fault.heals_within:g} s are promised, {bound:.1f} s granted"
        )
    with _listed(problems):
        _look_back(arena)
    problems += arena.crew.unasked
    arena.crew.unasked.clear()
    times = f"calm {arena.calms[-1]:4.1f} s, lasted {lasted:5.1f} s, healed {healed_after:5.1f} s"
    _say(f"{fault.name:<38} {times}  {'; '.join(problems)}")
    if math.isinf(healed_after):
        raise BrokenPromise(f"{fault.name}: the system did not heal in {GIVEN_UP_SECONDS:g} s")
    return Wound(fault, lasted, healed_after, bound, problems, arena.measured[measured_before:])


def _await_calm(arena: Arena, fault: Fault) -> None:
    """See that the system is well before it is hurt, and how quick: what follows is judged by it."""
    arena.rest(max(CALM_SECONDS, arena.undisturbed_until - time.time()))
    calm = _heal(arena, time.time())
    arena.calms.append(calm)
    if math.isinf(calm):
        raise BrokenPromise(f"before {fault.name}: not every worker took a job in {GIVEN_UP_SECONDS:g} s, nothing hurt")
    # Nothing on top: what is granted is made of this.
    one = Measured("every worker takes a job, nothing hurt", calm, HEALS_SECONDS, HEALS_SECONDS)
    arena.measured.append(one)
    if not one.kept:
        arena.late.append(f"before {fault.name}: {one}")


def _look_back(arena: Arena) -> None:
    """Judge what a fault left to be judged once all is well and whoever lost a lease has lost it."""
    if arena.afterwards:
        arena.rest(LEASE_SECONDS + RESCUE_TICK_SECONDS)
    for look in arena.afterwards:
        look()
    arena.afterwards.clear()


def _heal(arena: Arena, ended_at: float) -> float:
    """Return how long after ``ended_at`` a fresh job was completed and every worker had taken one; wait for it."""
    give_up = ended_at + GIVEN_UP_SECONDS
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


def _hear(arena: Arena, ended_at: float) -> float:
    """Return how long after ``ended_at`` every worker's heart and ear had come back; wait for it.

    The heart beats in its row; an ear has come back when the worker stops a run because it heard of a cancel.
    """
    beating = "SELECT count(*) FROM runtime.workers WHERE id = ANY (%s) AND heartbeat_at > to_timestamp(%s)"
    cancelled: list[UUID] = []
    again_at = 0.0
    while time.time() < ended_at + GIVEN_UP_SECONDS:
        if time.time() > again_at:
            again_at = time.time() + HEARING_SECONDS
            jobs = arena.plain(CANCELLED_AT_ONCE, seconds=2 * HEARING_SECONDS, priority=1)
            arena.workload.cancel_later([("proving.plain", job) for job in jobs], within=HEARING_SECONDS / 2)
            cancelled += jobs
        workers = arena.crew.worker_ids()
        hearing = [role for role in workers.values() if _stopped_any(role, cancelled)]
        if len(hearing) == len(arena.crew.of("worker")) == arena.ask(beating, list(workers), ended_at)[0][0]:
            return time.time() - ended_at
        arena.rest(0.2)
    return math.inf


def _stopped_any(role: Role, jobs: Sequence[UUID]) -> bool:
    stopped = [line for line in role.lines() if "run_stopped" in line]
    return any(str(job) in line for line in stopped for job in jobs)


def _age_some(arena: Arena) -> None:
    """Make some ended jobs older than their table keeps them, for prune to find."""
    ended = arena.ask("SELECT id FROM proving.plain_jobs WHERE completed_at > now() - interval '1 hour' ORDER BY id")
    # With the guards off: no one but time does this.
    rows = arena.ask(
        "WITH off AS MATERIALIZED (SELECT set_config('session_replication_role', 'replica', true) AS role)"
        " UPDATE proving.plain_jobs SET completed_at = completed_at - interval '2 days' FROM off"
        " WHERE role <> '' AND id IN ("
        " SELECT id FROM proving.plain_jobs WHERE id = ANY (%s) FOR UPDATE SKIP LOCKED) RETURNING id",
        arena.draw.sample([job for (job,) in ended], min(AGED_AT_ONCE, len(ended))),
    )
    arena.evidence.aged |= {row[0] for row in rows}


def _end(arena: Arena, outcome: Outcome) -> None:
    """Wait for what was to come, stop the load, let everything settle, drain the crew, and judge what is left."""
    while arena.later:
        arena.rest(0.2)
    arena.workload.stop()
    loaded = time.monotonic() - arena.workload.started_at
    arena.run("UPDATE runtime.schedules SET enabled = false")
    live = "SELECT count(*) FROM runtime.jobs WHERE completed_at IS NULL"
    _say(f"the load has stopped, {arena.ask(live)[0][0]} jobs are left")
    with _noted(outcome):
        arena.wait(lambda: not _hurry(arena) and not arena.ask(live)[0][0], "every job ends", seconds=SETTLED_SECONDS)
    _drain(arena, outcome)
    evidence = arena.evidence
    evidence.calls, evidence.requests = arena.provider.ledger, arena.provider.calls
    evidence.lost_runs = arena.crew.lost_runs()
    lost = Counter(run.how for run in evidence.lost_runs)
    full = arena.full_seconds()
    with _noted(outcome):
        arena.promise(full > FULL_SHARE * loaded, f"no key was at its limit for more than {full} of {loaded:.0f} s")
    outcome.checked = _judge(arena)
    outcome.counts = {
        "jobs acknowledged": len(evidence.committed),
        "answers lost for good": len(evidence.unsure),
        "cancels acknowledged": len(evidence.cancelled),
        "calls of the provider": evidence.requests,
        "stale writes rejected": lost["stale_write_rejected"],
        "runs stopped": lost["run_stopped"],
        "seconds of a key at its limit": full,
        "answers kept by the proxy": arena.postgres_road.answers_dropped + arena.door_road.answers_dropped,
        "processes started": len(arena.system.roles),
        "rescues": arena.ask("SELECT count(*) FROM runtime.transitions WHERE change_action = 'rescue'")[0][0],
        "transitions": arena.ask("SELECT count(*) FROM runtime.transitions")[0][0],
    }


def _hurry(arena: Arena) -> int:
    """Cut back-offs and snoozes short: nothing is learnt by waiting for them. Return how many there were."""
    tables = {arena.workload.table(stage) for stage in arena.evidence.committed.values()}
    hurry = "UPDATE {} SET due_at = NULL WHERE due_at > now() AND change_action IN ('retry', 'rescue', 'snooze')"
    return sum(len(arena.ask(f"{hurry.format(table)} RETURNING id")) for table in tables)


def _drain(arena: Arena, outcome: Outcome) -> None:
    roles = [post.role for post in arena.crew.posts]
    for role in roles:
        role.terminate()
    for role in roles:
        with _noted(outcome):
            code = role.exit_code(within=30.0)
            arena.promise(code == 0, f"{role.kind} {role.pid} ended with status {code}")


def _judge(arena: Arena) -> Report:
    async def judge() -> Report:
        async with await psycopg.AsyncConnection.connect(arena.system.database_url, autocommit=True) as connection:
            return await check(connection, arena.evidence, patience=PATIENCE, lease=SURELY_SHOWN)

    return asyncio.run(judge())


@contextmanager
def _listed(problems: list[str]) -> Iterator[None]:
    """Write down what a fault broke or ran into and go on: whatever it was, the system must be well afterwards."""
    try:
        yield
    except BrokenPromise as broken:
        problems.append(str(broken))
    except Exception as error:  # noqa: BLE001 - it ends no run
        problems.append(describe(error))


@contextmanager
def _noted(outcome: Outcome) -> Iterator[None]:
    """Write a broken promise down and go on."""
    try:
        yield
    except AssertionError as broken:
        outcome.problems.append(str(broken))


def _say(line: str, *, out: Callable[[str], object] = sys.stdout.write) -> None:
    out(f"{time.strftime('%H:%M:%S')}  {line}\n")
    sys.stdout.flush()
