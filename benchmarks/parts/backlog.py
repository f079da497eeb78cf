"""The cost of a backlog: drain rate and dispatch time by depth, behind snoozed jobs, and beside a saturated key."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.figures import OURS, Figure, figure
from benchmarks.gristmill import PLAIN, clean, gristmill
from benchmarks.parts import Bench
from benchmarks.parts.picking import PickTimes, measure_picks
from benchmarks.system import System, wait_for
from tests.support.proving.models import LIMIT

KEYED = "proving.keyed_jobs"
KEYS = 1_000
HOT_SECONDS = 3_600.0
# Two workers with a thousand slots each hold this many jobs while a tick picks. The tick must count them.
IN_FLIGHT = 2_000
SHALLOW = 10_000


def run(bench: Bench) -> Iterator[Figure]:
    """Measure each depth once per round, because filling it is most of the work."""
    yield from _depths(bench)
    yield from _hot(bench)


def _depths(bench: Bench) -> Iterator[Figure]:
    system, sizes = bench.system, bench.sizes
    shallowest, deepest = SHALLOW if SHALLOW in sizes.depths else min(sizes.depths), max(sizes.depths)
    names = {f"{depth:,} behind": depth for depth in sizes.depths}
    rates: dict[str, list[float]] = {}
    picks: dict[str, list[PickTimes]] = {}
    for turn in range(max(1, sizes.repeat - 1)):
        for name, depth in {**names, "snoozed in front": shallowest}.items():
            bench.say(f"round {turn + 1}: {name}")
            if name == "snoozed in front":
                _snoozed(system, sizes.snoozed)
            _fill_plain(system, depth + sizes.slice_jobs)
            with _in_flight(system, PLAIN):
                picks.setdefault(name, []).append(asyncio.run(measure_picks(system, "proving.plain", sizes.picks)))
            rates.setdefault(name, []).append(_slice(system, PLAIN, sizes.slice_jobs))
            clean(system)
    yield figure("backlog_rate", f"drain of {sizes.slice_jobs:,} jobs before a backlog", "jobs/s", rates)
    at_first = rates[f"{shallowest:,} behind"]
    yield _fall(
        f"backlog_fall_{shallowest:,}_{deepest:,}",
        f"… falls from {shallowest:,} to {deepest:,}",
        at_first,
        rates[f"{deepest:,} behind"],
    )
    yield _fall(
        "backlog_snoozed_fall", f"… falls behind {sizes.snoozed:,} snoozed", at_first, rates["snoozed in front"]
    )
    yield from _pick_figures(picks, "backlog", "tick")


def _hot(bench: Bench) -> Iterator[Figure]:
    system, sizes = bench.system, bench.sizes
    rates: dict[str, list[float]] = {}
    picks: dict[str, list[PickTimes]] = {}
    for turn in range(max(1, sizes.repeat - 1)):
        for hot in (0, *sizes.hot):
            name = f"{hot:,} of one key" if hot else "other keys alone"
            bench.say(f"round {turn + 1}: {name}")
            _fill_keyed(system, hot=hot, others=sizes.slice_jobs + KEYS)
            with _in_flight(system, KEYED):
                picks.setdefault(name, []).append(asyncio.run(measure_picks(system, "proving.keyed", sizes.picks)))
            rates.setdefault(name, []).append(_slice(system, KEYED, sizes.slice_jobs))
            clean(system)
    worst = f"{max(sizes.hot):,} of one key"
    yield figure("backlog_hot_rate", f"drain of {sizes.slice_jobs:,} jobs of {KEYS:,} keys", "jobs/s", rates)
    yield _fall("backlog_hot_fall", f"… falls beside {worst} at its limit", rates["other keys alone"], rates[worst])
    yield from _pick_figures(picks, "backlog_hot", "tick with limits")


def _fall(name: str, title: str, before: list[float], after: list[float]) -> Figure:
    falls = [(1 - now / then) * 100 for then, now in zip(before, after, strict=True)]
    return figure(name, title, "%", {OURS: falls})


def _pick_figures(picks: dict[str, list[PickTimes]], prefix: str, what: str) -> Iterator[Figure]:
    """Yield the dispatch times by depth, the worst of them, and the share of plans that use the index."""
    selects = {name: [each.select_ms for each in measured] for name, measured in picks.items()}
    whole = {name: [each.whole_ms for each in measured] for name, measured in picks.items()}
    yield figure(f"{prefix}_select", f"select part of a {what}", "ms", selects)
    yield figure(f"{prefix}_pick", f"{what} that marks 512", "ms", whole)
    yield figure(f"{prefix}_select_worst", "… worst select part", "ms", {OURS: max(map(max, selects.values()))})
    yield figure(f"{prefix}_pick_worst", "… worst whole", "ms", {OURS: max(map(max, whole.values()))})
    stable = [each.by_index for measured in picks.values() for each in measured]
    yield figure(f"{prefix}_plans", "… plans by the ready index", "%", {OURS: 100 * sum(stable) / len(stable)})


def _fill_plain(system: System, jobs: int) -> None:
    system.postgres.execute(f"INSERT INTO {PLAIN} (act) SELECT 'complete' FROM generate_series(1, %s)".encode(), [jobs])


def _snoozed(system: System, jobs: int) -> None:
    """Insert jobs with priority 1 that are due tomorrow. They are older than all jobs after them."""
    system.postgres.execute(
        f"INSERT INTO {PLAIN} (act, priority, due_at) "
        "SELECT 'complete', 1, now() + interval '1 day' FROM generate_series(1, %s)".encode(),
        [jobs],
    )


def _fill_keyed(system: System, *, hot: int, others: int) -> None:
    """Insert a hot key with running jobs that never end, before many keys with a few jobs each."""
    for sql, parameters in (
        ("SELECT 'hot', 1, %s FROM generate_series(1, %s)", [HOT_SECONDS, hot]),
        (f"SELECT 'key ' || n %% {KEYS}, 5, 0 FROM generate_series(1, %s) AS n", [others]),
    ):
        system.postgres.execute(f"INSERT INTO {KEYED} (key, priority, seconds) {sql}".encode(), parameters)


@contextmanager
def _in_flight(system: System, table: str) -> Iterator[None]:
    """Keep jobs in flight while the block runs, as with busy workers: of each key as many as its limit allows."""
    mine = f"SELECT id FROM {table} WHERE due_at IS NULL ORDER BY id LIMIT {IN_FLIGHT}"
    if table == KEYED:
        turns = f"SELECT id, row_number() OVER (PARTITION BY key ORDER BY id) AS turn FROM {table}"
        mine = f"SELECT id FROM ({turns}) AS turns WHERE turn <= {LIMIT} ORDER BY turn, id LIMIT {IN_FLIGHT}"
    system.postgres.execute(f"UPDATE {table} SET dispatched_at = now() WHERE id IN ({mine})".encode())
    yield
    system.postgres.execute(f"UPDATE {table} SET dispatched_at = NULL WHERE dispatched_at IS NOT NULL".encode())


def _slice(system: System, table: str, jobs: int) -> float:
    """Return the rate at which ``jobs`` complete, without the first fifth, in which processes warm up."""
    system.postgres.execute(f"VACUUM (ANALYZE) {table}".encode())
    system.postgres.execute("CHECKPOINT")
    done = f"SELECT count(*) FROM {table} WHERE completed_at IS NOT NULL AND status = 'completed'"
    at = f"""SELECT extract(epoch FROM completed_at)::float8 FROM {table}
              WHERE completed_at IS NOT NULL AND status = 'completed' ORDER BY completed_at OFFSET %s LIMIT 1"""
    with gristmill(system, warm_up=0):
        wait_for(lambda: system.value(done) >= jobs, seconds=300, every=0.1)
        first, last = system.value(at, [jobs // 5]), system.value(at, [jobs - 1])
    return float((jobs - jobs // 5 - 1) / (last - first))
