"""The targets in one table. Each is compared with the figures of the same run. Missing figures are reported."""

from dataclasses import dataclass

from benchmarks.figures import OURS, Figure, Results


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A bound for one of our figures, or for its ratio to ``beside`` in the same run."""

    figure: str
    says: str
    beside: str | None = None
    at_least: float | None = None
    at_most: float | None = None

    def measured(self, results: Results) -> float | None:
        """Return the value to compare with the bound."""
        found: Figure | None = results.get(self.figure)
        if found is None:
            return None
        return found.ratio(self.beside) if self.beside else found.median()

    def rounds(self, results: Results) -> list[float]:
        """Return the value of each round."""
        found: Figure | None = results.get(self.figure)
        if found is None:
            return []
        return found.ratios(self.beside) if self.beside else found.samples.get(OURS, [])

    def met(self, measured: float) -> bool:
        if self.at_least is not None and measured < self.at_least:
            return False
        return self.at_most is None or measured <= self.at_most


DURABLE_PEERS = ("procrastinate", "oban", "dbos", "absurd")

TARGETS = (
    Target(figure="drain", says="drain ≥ 30 × naive", beside="naive Celery", at_least=30),
    Target(figure="drain", says="drain ≥ 65 % of raw SQL, one connection", beside="raw SQL", at_least=0.65),
    Target(figure="drain", says="drain ≥ 65 % of raw SQL, two connections", beside="raw SQL × 2", at_least=0.65),
    *(Target(figure="drain", says=f"drain ≥ 2 × {peer}", beside=peer, at_least=2) for peer in DURABLE_PEERS),
    Target(figure="drain", says="drain ≥ 1 × pgqueuer", beside="pgqueuer", at_least=1),
    Target(figure="enqueue_bulk", says="bulk enqueue ≥ 70 % of COPY", beside="COPY", at_least=0.7),
    Target(figure="latency_20_p50", says="commit to handler at 20/s, p50 ≤ 8 ms", at_most=8),
    Target(figure="latency_20_p99", says="commit to handler at 20/s, p99 ≤ 30 ms", at_most=30),
    Target(figure="calls_concurrent", says="≥ 2,000 calls at once on 2 processes", at_least=2_000),
    Target(figure="calls_concurrent_long", says="… with calls of 2 s", at_least=2_000),
    Target(figure="calls_ideal", says="200 ms calls, 1,000 slots, one process: ≥ 90 % of ideal", at_least=90),
    Target(figure="calls_ideal_two", says="… two processes", at_least=90),
    Target(figure="calls_http", says="HTTP calls ≥ taskiq", beside="taskiq", at_least=1),
    Target(figure="calls_http", says="HTTP calls ≥ pgqueuer", beside="pgqueuer", at_least=1),
    Target(
        figure="controlled_calls",
        says="calls with admission and ledger ≥ 90 % of calls without, 1,000 in flight",
        beside="no control",
        at_least=0.9,
    ),
    Target(figure="controlled_calls_cost", says="… processor time that they add per call ≤ 0.15 ms", at_most=0.15),
    Target(figure="backlog_fall_10,000_10,000,000", says="drain before 10⁴ → 10⁷ falls < 15 %", at_most=15),
    Target(figure="backlog_snoozed_fall", says="drain behind 10⁵ snoozed jobs falls < 15 %", at_most=15),
    Target(figure="backlog_hot_fall", says="drain beside a saturated key falls < 15 %", at_most=15),
    Target(figure="backlog_select_worst", says="select part of a tick ≤ 3 ms", at_most=3),
    Target(figure="backlog_pick_worst", says="tick that marks 512 ≤ 15 ms", at_most=15),
    Target(figure="backlog_hot_select_worst", says="… with a saturated key ≤ 3 ms", at_most=3),
    Target(figure="backlog_hot_pick_worst", says="… that marks 512 with a saturated key ≤ 15 ms", at_most=15),
    Target(figure="backlog_plans", says="every pick goes by its index", at_least=100),
    Target(figure="backlog_hot_plans", says="… with limits too", at_least=100),
    Target(figure="memory_idle", says="worker RSS ≤ 120 MB idle", at_most=120),
    Target(figure="memory_deployed", says="`gristmill worker` RSS ≤ 120 MB idle", at_most=120),
    Target(figure="memory_running", says="worker RSS ≤ 250 MB at 1,000 running", at_most=250),
    Target(figure="ingest", says="ingestion ≥ 30,000 short rows/s", at_least=30_000),
    Target(figure="ingest", says="ingestion ≥ 50 % of COPY into the same table", beside="COPY", at_least=0.5),
    Target(figure="ingest_huge_memory", says="a file of 1 GB in < 300 MB", at_most=300),
    Target(figure="embed_busy", says="embeddings server busy ≥ 95 % while a job runs", at_least=95),
    Target(figure="embed_recall", says="recall at 10 of the index ≥ 95 %", at_least=95),
    Target(figure="gateway_single", says="POST /v1/jobs ≥ 0.9 × a bare route", beside="bare route", at_least=0.9),
    Target(figure="gateway_batch", says="a batch ≥ 0.6 × enqueue_many", beside="enqueue_many", at_least=0.6),
    Target(figure="gateway_event_p99", says="commit to event at 200/s, p99 ≤ 30 ms", at_most=30),
    Target(figure="gateway_idle", says="2,000 idle streams in ≤ 200 MB", at_most=200),
    Target(figure="watched", says="job events cost ≤ 25 % of the drain", beside="events off", at_least=0.75),
)


def verdict(target: Target, results: Results) -> tuple[str, str]:
    """Return the figure and ``met``, ``not met``, ``not decided`` (rounds disagree) or ``not measured``."""
    measured = target.measured(results)
    if measured is None:
        return "", "not measured"
    shown = f"{measured:.2f} ×" if target.beside else f"{measured:,.1f}"
    met = [target.met(one) for one in target.rounds(results)]
    if any(met) and not all(met):
        return shown, "not decided"
    return shown, "met" if all(met) else "not met"
