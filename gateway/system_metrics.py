"""The metrics of the whole system, which every gateway can read: jobs, waits, latencies, workers."""

import asyncio
import time
from collections.abc import Iterator, Sequence

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from workers.runtime.database import Database
from workers.runtime.operate.metrics import BOUNDS, Measured, SystemMetrics, labels_of, read_metrics

log = structlog.get_logger(__name__)

READ_SECONDS = 5.0
# Several scrapers share one look.
MAX_AGE_SECONDS = 1.0

# What processes measure (``workers.runtime.measuring``), by its name there.
_HISTOGRAMS = {
    "dispatch_seconds": "From when a job is ready to its dispatch.",
    "claim_seconds": "From the dispatch of a job to its claim by a worker.",
    "run_seconds": "From the claim of a job to its outcome.",
    "settle_seconds": "From the outcome of a run to its commit.",
    "provider_call_seconds": "Calls of providers; outcome: answered, rate_limited, unavailable, failed, cancelled.",
}
_COUNTERS = {
    "stale_writes": "Outcomes that the fence refused, because the job had moved on.",
}


class SystemCollector(Collector):
    """Shows what :meth:`refresh` read last. Without an answer of Postgres only ``gristmill_system_up``, 0."""

    def __init__(self) -> None:
        self._read: SystemMetrics | None = None
        self._read_at = float("-inf")
        self._lock = asyncio.Lock()

    async def refresh(self, database: Database) -> None:
        """Read the state of the system, at most once a second; never raises for what Postgres does."""
        async with self._lock:
            if time.monotonic() - self._read_at <= MAX_AGE_SECONDS:
                return
            try:
                async with asyncio.timeout(READ_SECONDS), database.transaction() as conn:
                    self._read = await read_metrics(conn)
            except Exception as error:  # noqa: BLE001 - the process's own metrics must be shown whatever it is
                self._read = None
                log.warning("system_metrics_not_read", error=f"{type(error).__name__}: {error}")
            self._read_at = time.monotonic()

    def collect(self) -> Iterator[Metric]:
        read = self._read
        yield GaugeMetricFamily(
            "gristmill_system_up",
            "Whether the metrics of the whole system could be read.",
            value=float(read is not None),
        )
        if read is None:
            return
        yield from _jobs(read)
        yield from _processes(read)
        yield from _measured(read.measured)


def _jobs(read: SystemMetrics) -> Iterator[Metric]:
    jobs = GaugeMetricFamily("gristmill_jobs", "Jobs by stage and state; exact.", labels=["stage", "state"])
    for count in read.counts:
        jobs.add_metric([count.stage, count.state], count.jobs)
    yield jobs
    waits = GaugeMetricFamily(
        "gristmill_oldest_wait_seconds", "How long the ready job that waits longest has waited.", labels=["stage"]
    )
    for wait in read.waits:
        waits.add_metric([wait.stage], wait.waited.total_seconds() if wait.waited else 0.0)
    yield waits
    actions = CounterMetricFamily(
        "gristmill_job_actions",
        "Jobs that an action has moved; action: enqueue, claim, complete, retry, rescue, snooze, fail, cancel ….",
        labels=["stage", "action"],
    )
    for one in read.actions:
        actions.add_metric([one.stage, one.action], one.jobs)
    yield actions


def _processes(read: SystemMetrics) -> Iterator[Metric]:
    workers = GaugeMetricFamily("gristmill_workers", "Worker processes by state.", labels=["state"])
    for state in ("running", "draining", "silent"):
        workers.add_metric([state], sum(one.state == state for one in read.workers))
    yield workers
    slots = GaugeMetricFamily("gristmill_worker_slots", "Slots of workers that are not silent.", labels=["use"])
    alive = [one for one in read.workers if one.state != "silent"]
    slots.add_metric(["all"], sum(one.slots for one in alive))
    slots.add_metric(["running"], sum(one.running for one in alive))
    yield slots
    if read.leader_silence is not None:
        yield GaugeMetricFamily(
            "gristmill_dispatcher_silence_seconds",
            "Since when the leading dispatcher gave no sign of life.",
            value=max(read.leader_silence.total_seconds(), 0.0),
        )


def _measured(measured: Sequence[Measured]) -> Iterator[Metric]:
    families: dict[str, HistogramMetricFamily | CounterMetricFamily] = {}
    for one in measured:
        labels = labels_of(one)
        family = families.get(one.name)
        if family is None:
            family = families[one.name] = _family(one, list(labels))
        values = [str(value) for value in labels.values()]
        if isinstance(family, HistogramMetricFamily):
            family.add_metric(values, _cumulative(one), sum_value=one.total)
        else:
            family.add_metric(values, one.number)
    yield from families.values()


def _family(one: Measured, labels: list[str]) -> HistogramMetricFamily | CounterMetricFamily:
    name = f"gristmill_{one.name}"
    if one.buckets:
        return HistogramMetricFamily(name, _HISTOGRAMS.get(one.name, one.name), labels=labels)
    return CounterMetricFamily(name, _COUNTERS.get(one.name, one.name), labels=labels)


def _cumulative(one: Measured) -> list[tuple[str, float]]:
    """Return the buckets as Prometheus has them: each with all before it. Those of another release are left out."""
    total, found = 0, []
    for bound, number in zip((*map(str, BOUNDS), "+Inf"), one.buckets, strict=False):
        total += number
        found.append((bound, float(total)))
    found[-1] = ("+Inf", float(one.number))
    return found
