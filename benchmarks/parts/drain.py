"""Drain of no-op jobs with the whole lifecycle and its transitions, and the processor time per job."""

from collections.abc import Callable, Iterator

from benchmarks import naive, raw_sql
from benchmarks.figures import OURS, Figure, figure
from benchmarks.gristmill import Drained, clean, drain, gristmill
from benchmarks.parts import Bench
from benchmarks.peers.measure import Peer
from benchmarks.peers.measure import drain as drain_peer

NAIVE_CONCURRENCY = 4


def run(bench: Bench) -> Iterator[Figure]:
    """Compare two workers and one dispatcher with the naive pattern, raw SQL, and the requested peers."""
    system, sizes = bench.system, bench.sizes

    def ours() -> Drained:
        with gristmill(system) as running:
            return drain(running, sizes.drain_jobs)

    def theirs() -> Drained:
        with naive.naive(system, concurrency=NAIVE_CONCURRENCY) as running:
            return naive.drain(running, sizes.naive_jobs)

    def raw(connections: int) -> Callable[[], Drained]:
        def measure() -> Drained:
            try:
                return raw_sql.drain(system, sizes.drain_jobs, connections=connections)
            finally:
                clean(system)

        return measure

    def of(peer: Peer) -> Callable[[], Drained]:
        return lambda: drain_peer(system, peer, max(20, int(sizes.drain_jobs * peer.share)))

    samples = bench.interleaved(
        {
            OURS: ours,
            "raw SQL": raw(1),
            "raw SQL × 2": raw(2),
            "naive Celery": theirs,
            **{peer.name: of(peer) for peer in bench.peers},
        }
    )
    yield figure(
        "drain",
        "drain of no-op jobs",
        "jobs/s",
        {name: [one.rate for one in drained] for name, drained in samples.items()},
    )
    yield from cpu(samples)


def cpu(samples: dict[str, list[Drained]]) -> Iterator[Figure]:
    """Yield milliseconds of processor time per job: a figure per group of processes, and one of all groups."""
    for group in ("all", "workers", "dispatcher", "postgres", "valkey"):
        yield figure(
            f"drain_cpu_{group}",
            f"processor time per no-op job: {group}",
            "ms",
            {
                name: [one.cpu_per_job()[group] for one in drained]
                for name, drained in samples.items()
                if group in drained[0].cpu_per_job()
            },
        )
