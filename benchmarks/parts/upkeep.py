"""Delete old rows: prune in batches, and drop a month of transitions, compared with one large DELETE."""

import asyncio
import time
from collections.abc import Iterator

from benchmarks.figures import OURS, Figure, figure
from benchmarks.gristmill import PLAIN, clean
from benchmarks.parts import Bench
from benchmarks.system import System
from tests.support.proving.models import PlainJob
from workers.runtime.connections import connect, connect_async
from workers.runtime.store.rescue import prune

OLD_MONTH = "transitions_2001_01"
# Drops the old month, like the schedule does.
DROP = "SELECT runtime.drop_transition_partitions(interval '400 days')"


def run(bench: Bench) -> Iterator[Figure]:
    """Measure each with its own rows. The guards are off while the rows are made, because they refuse old rows."""
    system, rows = bench.system, bench.sizes.prune_rows
    longest: list[float] = []

    def pruned() -> float:
        _old_jobs(system, rows)
        seconds = asyncio.run(_prune(system))
        longest.append(max(seconds) * 1_000)
        clean(system)
        return rows / sum(seconds)

    samples = bench.interleaved({OURS: pruned, "one DELETE": lambda: _delete_jobs(system, rows)})
    yield figure("prune", f"prune of {rows:,} old jobs, 1,000 a transaction", "rows/s", samples)
    yield figure("prune_longest", "… longest transaction", "ms", {OURS: longest})
    samples = bench.interleaved(
        {OURS: lambda: _month(system, rows, drop=True), "one DELETE": lambda: _month(system, rows, drop=False)}
    )
    yield figure("drop_month", f"dropping a month of {rows:,} transitions", "ms", samples)


def _unguarded(system: System, statement: str, rows: int) -> None:
    with connect(system.database_url) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute(statement.encode(), [rows])
    system.postgres.execute("CHECKPOINT")


def _old_jobs(system: System, rows: int) -> None:
    old = "now() - interval '10 days'"
    _unguarded(
        system,
        f"INSERT INTO {PLAIN} (status, version, completed_at, created_at, updated_at) "
        f"SELECT 'completed', 3, {old}, {old}, {old} FROM generate_series(1, %s)",
        rows,
    )
    system.postgres.execute(f"ANALYZE {PLAIN}".encode())


async def _prune(system: System) -> list[float]:
    """Prune until nothing is left; return the time of each transaction."""
    seconds, deleted = [], -1
    async with await connect_async(system.database_url, autocommit=True) as connection:
        while deleted:
            start = time.perf_counter()
            deleted = await prune(connection, PlainJob)
            seconds.append(time.perf_counter() - start)
    return seconds


def _delete_jobs(system: System, rows: int) -> float:
    _old_jobs(system, rows)
    start = time.perf_counter()
    system.postgres.execute(f"DELETE FROM {PLAIN} WHERE completed_at < now() - interval '1 day'".encode())
    seconds = time.perf_counter() - start
    clean(system)
    return rows / seconds


def _month(system: System, rows: int, *, drop: bool) -> float:
    """Return the milliseconds to drop or delete an old month."""
    system.postgres.execute(
        f"CREATE TABLE IF NOT EXISTS runtime.{OLD_MONTH} PARTITION OF runtime.transitions "
        "FOR VALUES FROM ('2001-01-01T00:00:00Z') TO ('2001-02-01T00:00:00Z')".encode()
    )
    _unguarded(
        system,
        "INSERT INTO runtime.transitions (job_id, version_to, created_at, stage, new_state) "
        "SELECT uuidv7(), 1, '2001-01-15T00:00:00Z', 'proving.plain', 'pending' FROM generate_series(1, %s)",
        rows,
    )
    start = time.perf_counter()
    if drop:
        assert system.value(DROP) == [OLD_MONTH]
    else:
        system.postgres.execute("DELETE FROM runtime.transitions WHERE created_at < '2001-02-01T00:00:00Z'")
    seconds = time.perf_counter() - start
    system.postgres.execute(f"DROP TABLE IF EXISTS runtime.{OLD_MONTH}".encode())
    return seconds * 1_000
