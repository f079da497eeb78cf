"""Calls of a provider with admission and ledger, with kept answers too, and the same calls without any of them."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.figures import OURS, Figure, figure
from benchmarks.parts import Bench
from benchmarks.system import Meter, served

CALL_SECONDS = 0.2
IN_FLIGHT = 1_000
# Nothing else than limits keeps a call back.
ROOM = {"GRISTMILL_LLM__CONCURRENCY": "2000", "GRISTMILL_LLM__MAX_CONNECTIONS": "2000"}
WITHOUT, KEPT = "no control", "with kept answers"
# Two limits and a budget that never keep a call back: each call is counted in all of them.
CONTROL = """
    INSERT INTO llm.budgets (id, name, scope, "window", tokens, "then")
    VALUES (gen_random_uuid(), 'bench', 'all', 'day', 1000000000000, 'stop');
    INSERT INTO llm.limits (id, provider, measure, at_most, window_seconds, set_by)
    VALUES (gen_random_uuid(), 'environment', 'requests', 100000000, 60, 'operator'),
           (gen_random_uuid(), 'environment', 'tokens', 1000000000000, 60, 'operator')"""


@dataclass(frozen=True, slots=True)
class Asked:
    """Calls per second; processor milliseconds per call in the asking process and in Postgres."""

    rate: float
    client: float
    postgres: float


def run(bench: Bench) -> Iterator[Figure]:
    """Both ask one process's provider with ``IN_FLIGHT`` questions at once; every question is asked once."""
    calls = max(20, bench.sizes.calls // 2)
    bench.system.postgres.execute(CONTROL.encode())
    try:
        with served("benchmarks.http_server", "--delay", str(CALL_SECONDS)) as url:
            samples = bench.interleaved(
                {
                    OURS: lambda: _ask(bench, url, calls=calls, control=True),
                    KEPT: lambda: _ask(bench, url, calls=calls, control=True, keep=True),
                    WITHOUT: lambda: _ask(bench, url, calls=calls, control=False),
                }
            )
    finally:
        bench.system.postgres.execute(b"DELETE FROM llm.limits; DELETE FROM llm.budgets")
    yield figure(
        "controlled_calls",
        f"200 ms calls of one process, {IN_FLIGHT:,} at once, two limits and a budget",
        "calls/s",
        {name: [one.rate for one in asked] for name, asked in samples.items()},
    )
    yield figure(
        "controlled_calls_cpu",
        "… processor time per call in the asking process",
        "ms",
        {name: [one.client for one in asked] for name, asked in samples.items()},
    )
    yield figure(
        "controlled_calls_postgres",
        "… processor time per call in Postgres",
        "ms",
        {name: [one.postgres for one in asked] for name, asked in samples.items()},
    )
    yield figure(
        "controlled_calls_cost",
        "… processor time per call that it adds in the asking process",
        "ms",
        {name: _added(asked, samples.get(WITHOUT, [])) for name, asked in samples.items() if name != WITHOUT},
    )


def _added(with_control: Sequence[Asked], without: Sequence[Asked]) -> list[float]:
    return [one.client - other.client for one, other in zip(with_control, without, strict=False)]


def _ask(bench: Bench, url: str, *, calls: int, control: bool, keep: bool = False) -> Asked:
    """Ask in a process of its own, with empty tables."""
    bench.system.postgres.execute(b"TRUNCATE llm.calls, llm.answers, llm.window_counts")
    meter = Meter(bench.system, {})
    options = {"calls": calls, "in_flight": IN_FLIGHT, "control": control, "keep": keep}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.llm_calls", json.dumps(options)],
        env={**bench.system.environment, "OPENAI_BASE_URL": url, "OPENAI_API_KEY": "bench", **ROOM},
        stdout=subprocess.PIPE,
        check=True,
    )
    measured = json.loads(done.stdout.splitlines()[-1])
    return Asked(
        measured["rate"], measured["cpu"] / calls * 1_000, meter.used()["postgres"] / (calls + IN_FLIGHT) * 1_000
    )
