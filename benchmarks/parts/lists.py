"""The list of jobs: a page by each filter in a table of many jobs, and what its indexes cost each job."""

import asyncio
import time
from collections.abc import Iterator
from uuid import UUID

from benchmarks.figures import OURS, Figure, figure
from benchmarks.gristmill import clean
from benchmarks.parts import Bench
from benchmarks.system import System
from tests.support.many_jobs import OWNER, TABLE, Wanted, fill, wanted
from workers.runtime.database import Database
from workers.runtime.operate.lists import count_jobs, list_page

PAGE = 50
TIMES = 20
INDEXES = ("listed", "listed_later", "owned", "errors", "owned_errors")
# A job's life, for so many jobs in each statement; rolled back.
LIVES = 2_000
LIFE = (
    "INSERT INTO {table} (owner_id) SELECT {owner} FROM generate_series(1, {lives})",
    "UPDATE {table} SET dispatched_at = now() WHERE created_at = now()",
    """UPDATE {table} SET status = 'processing', version = 2, lease_owner = gen_random_uuid(), started_at = now(),
              progress = 1, change_action = 'claim' WHERE created_at = now()""",
    """UPDATE {table} SET status = 'completed', version = 3, dispatched_at = NULL, completed_at = now(),
              change_action = 'complete' WHERE created_at = now()""",
)


def run(bench: Bench) -> Iterator[Figure]:
    """Measure every filter for an operator and for a tenant, with the statistics of an empty table."""
    system, rows = bench.system, max(bench.sizes.depths)
    bench.say(f"{rows:,} jobs")
    times = asyncio.run(_pages(system, rows))
    for who, found in times.items():
        yield figure(f"list_{who}_p50", f"page of {PAGE} in {rows:,} jobs, {who}, p50", "ms", _share(found, 0.50))
        yield figure(f"list_{who}_p95", f"page of {PAGE} in {rows:,} jobs, {who}, p95", "ms", _share(found, 0.95))
    clean(system)
    yield from _costs(bench)
    clean(system)


async def _pages(system: System, rows: int) -> dict[str, dict[str, list[float]]]:
    """Return the milliseconds of the pages and counts of each filter, for an operator and for a tenant."""
    database = Database(system.database_url, changed_by="bench")
    found: dict[str, dict[str, list[float]]] = {"operator": {}, "tenant": {}}
    try:
        async with await database.listen() as conn:
            await fill(conn, rows)
        for _ in range(TIMES):
            for one in wanted(rows):
                for who, tenant in (("operator", None), ("tenant", OWNER)):
                    page, count = await _timed(database, one, tenant)
                    found[who].setdefault(one.name, []).append(page)
                    found[who].setdefault(f"count by {one.name}", []).append(count)
    finally:
        await database.close()
    return found


async def _timed(database: Database, one: Wanted, tenant: UUID | None) -> tuple[float, float]:
    role = "gristmill_service" if tenant else "gristmill_operator"
    async with database.transaction() as conn:
        await conn.execute("SELECT set_config('role', %s, true)", [role])
        await conn.execute("SELECT set_config('gristmill.user_id', %s, true)", [str(tenant or "")])
        began = time.perf_counter()
        await list_page(conn, one.search, limit=PAGE)
        listed = time.perf_counter()
        await count_jobs(conn, one.search)
        counted = time.perf_counter()
    return (listed - began) * 1_000, (counted - listed) * 1_000


def _share(found: dict[str, list[float]], share: float) -> dict[str, float]:
    return {name: sorted(times)[int(share * (len(times) - 1))] for name, times in found.items()}


def _costs(bench: Bench) -> Iterator[Figure]:
    """Compare a job's life with these indexes and without them: bytes of WAL, and the time in Postgres."""
    system = bench.system
    system.postgres.execute("CHECKPOINT")
    _life(system, "NULL", without=False)  # the first change of a page after a checkpoint writes all of it
    wal: dict[str, list[float]] = {}
    times: dict[str, list[float]] = {}
    for turn in range(max(bench.sizes.repeat, 3)):
        bench.say(f"indexes, round {turn + 1}")
        for owner in ("NULL", f"'{OWNER}'"):
            for name, without in ((OURS, False), ("without the indexes", True)):
                which = name if owner == "NULL" else f"{name}, with an owner"
                nbytes, milliseconds = _life(system, owner, without=without)
                wal.setdefault(which, []).append(nbytes / LIVES)
                times.setdefault(which, []).append(milliseconds / LIVES)
    yield figure("list_index_wal", "WAL of a job's life", "bytes", wal)
    yield figure("list_index_time", "time in Postgres of a job's life", "ms", times)


def _life(system: System, owner: str, *, without: bool) -> tuple[float, float]:
    """Return the bytes of WAL and the milliseconds of ``LIVES`` jobs, in one transaction that is rolled back."""
    nbytes, milliseconds = 0.0, 0.0
    schema, _, table = TABLE.partition(".")
    with system.postgres.transaction(force_rollback=True):
        if without:
            for index in INDEXES:
                system.postgres.execute(f"DROP INDEX {schema}.ix_{table}_{index}".encode())
        for statement in LIFE:
            sql = statement.format(table=TABLE, owner=owner, lives=LIVES)
            row = system.postgres.execute(f"EXPLAIN (ANALYZE, WAL, BUFFERS, FORMAT JSON) {sql}".encode()).fetchone()
            assert row is not None
            [explained] = row[0]
            nbytes += explained["Plan"].get("WAL Bytes", 0)
            milliseconds += explained["Execution Time"]
    return nbytes, milliseconds
