"""The sizes of a run: whole, quick, or any share of them."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Counts and lengths of one run."""

    repeat: int = 3
    drain_jobs: int = 30_000
    naive_jobs: int = 1_500
    enqueue_jobs: int = 20_000
    enqueue_singles: int = 500
    latency_seconds: float = 20.0
    calls: int = 20_000
    naive_calls: int = 400
    slice_jobs: int = 10_000
    depths: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    snoozed: int = 100_000
    hot: tuple[int, ...] = (100_000, 1_000_000)
    picks: int = 30
    prune_rows: int = 100_000
    running: int = 1_000
    ingest_rows: int = 500_000
    ingest_bytes: int = 0
    embed_records: int = 10_000

    def scaled(self, share: float) -> "Sizes":
        """Return every count times ``share``, for a trial run."""

        def of(count: int, *, minimum: int = 20) -> int:
            return max(minimum, int(count * share))

        return replace(
            self,
            **{
                name: of(getattr(self, name))
                for name in ("drain_jobs", "naive_jobs", "enqueue_jobs", "enqueue_singles", "calls", "naive_calls")
            },
            slice_jobs=of(self.slice_jobs, minimum=2_000),  # more than one batch, because a rate needs two times
            snoozed=of(self.snoozed),
            prune_rows=of(self.prune_rows, minimum=2_000),
            running=of(self.running),
            ingest_rows=of(self.ingest_rows),
            ingest_bytes=int(self.ingest_bytes * share),
            embed_records=of(self.embed_records, minimum=1_000),
            latency_seconds=max(2.0, self.latency_seconds * share),
            picks=of(self.picks, minimum=3),
            depths=tuple(of(depth) for depth in self.depths),
            hot=tuple(of(depth) for depth in self.hot),
        )


WHOLE = Sizes()
# Within three minutes without peers.
QUICK = Sizes(
    repeat=1,
    drain_jobs=10_000,
    naive_jobs=500,
    enqueue_jobs=10_000,
    enqueue_singles=200,
    latency_seconds=5.0,
    calls=8_000,
    naive_calls=150,
    slice_jobs=5_000,
    depths=(1_000, 100_000),
    snoozed=20_000,
    hot=(100_000,),
    picks=10,
    prune_rows=20_000,
    ingest_rows=100_000,
    embed_records=5_000,
)
HUGE = 10_000_000
HUGE_FILE = 1_000_000_000
