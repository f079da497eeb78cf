"""Ingest a CSV of short rows into records, compared with a COPY of the same rows: rate, processor time, memory."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from uuid import UUID

from benchmarks.figures import OURS, Figure, figure
from benchmarks.gristmill import clean, gristmill
from benchmarks.parts import Bench
from benchmarks.system import Meter, System, wait_for
from workers.ingestion.enqueue_file import ingest_file
from workers.operations.projects import get_or_create
from workers.runtime.connections import connect
from workers.runtime.database import Database

PATIENCE = 3_600.0
MEGABYTE = 1_000_000
ROWS_AT_ONCE = 1_000
HEADER = "id,prompt,category,author\n"
WORDS = ("write", "a", "short", "story", "about", "the", "quick", "brown", "fox", "and", "its", "long", "journey")
SOURCE = "csv:bench.csv"
COLUMNS = '("projectId", type, category, source, content, metadata, "createdById", "createdByName")'
# The columns of a record, without constraints and indexes.
PLAIN = """CREATE TABLE bench_records ("projectId" uuid, type text, category text, source text, content text,
           metadata jsonb, "createdById" text, "createdByName" text)"""
TOOK = """SELECT extract(epoch FROM max(created_at) FILTER (WHERE new_state = 'QUEUED_FOR_VEC')
                                  - min(created_at) FILTER (WHERE new_state = 'PROCESSING'))::float8
            FROM runtime.transitions WHERE job_id = %s"""
SEEN = "SELECT status IN ('QUEUED_FOR_VEC', 'FAILED') FROM operations.ingest_jobs WHERE id = %s"


@dataclass(frozen=True, slots=True)
class Ingested:
    """The measurement of one file. The processor time is of the worker and Postgres together."""

    rate: float
    cpu_microseconds: float
    peak_megabytes: float


def run(bench: Bench) -> Iterator[Figure]:
    """Measure rates and the worker's peak; with ``--huge`` also a file of a gigabyte."""
    system, rows = bench.system, bench.sizes.ingest_rows
    peers: dict[str, Callable[[], Ingested]] = {
        OURS: lambda: _ingest(system, _short_rows(rows), rows),
        "COPY": lambda: _copy(system, rows, into="operations.data_records"),
        "COPY, bare table": lambda: _copy(system, rows, into="bench_records"),
    }
    samples = bench.interleaved(peers)
    rates = {who: [one.rate for one in found] for who, found in samples.items()}
    yield figure("ingest", f"ingestion of {rows:,} short rows", "rows/s", rates)
    cpu = {who: [one.cpu_microseconds for one in found] for who, found in samples.items()}
    yield figure("ingest_cpu", "… processor time per row", "µs", cpu)
    yield figure(
        "ingest_memory", "… peak memory of the worker", "MB", {OURS: [one.peak_megabytes for one in samples[OURS]]}
    )
    if size := bench.sizes.ingest_bytes:
        bench.say(f"a file of {size:,} bytes")
        long_rows = size // len(_long_row(0))
        huge = _ingest(system, map(_long_row, range(long_rows)), long_rows)
        yield figure(
            "ingest_huge", f"ingestion of {size:,} bytes", "MB/s", {OURS: huge.rate * size / long_rows / MEGABYTE}
        )
        yield figure("ingest_huge_memory", "… peak memory of the worker", "MB", {OURS: huge.peak_megabytes})


def _short_rows(count: int) -> Iterator[str]:
    draw = random.Random(1)
    for number in range(count):
        yield f"{number},{' '.join(draw.choices(WORDS, k=10))} {number},{_category(number)},user{number % 50}\n"


def _category(number: int) -> str:
    return "" if number % 10 else "TOP_10"


def _long_row(number: int) -> str:
    return f'{number:09},"{number:09} {"some words, " * 80}\n",,user{number % 50:02}\n'


def _ingest(system: System, lines: Iterator[str], rows: int) -> Ingested:
    """Upload the file, then let a new worker ingest it."""
    job = asyncio.run(_put(system, lines))
    system.postgres.execute("CHECKPOINT")
    with gristmill(system, workers=1, slots=4, warm_up=0, queues=["ingestion"]) as running:
        meter = Meter(system, {"worker": running.workers})
        wait_for(partial(system.value, SEEN, [job]), seconds=PATIENCE, every=0.2, alive=running.pids)
        cpu, peak = meter.used(), _peak(running.workers[0])
        seconds = system.value(TOOK, [job])
        saved = system.value('SELECT "savedCount" FROM operations.ingest_jobs WHERE id = %s', [job])
    if saved != rows:
        raise RuntimeError(f"{saved} of {rows} rows were saved")
    _empty(system)
    return Ingested(rows / seconds, (cpu["worker"] + cpu["postgres"]) * 1e6 / rows, peak)


async def _put(system: System, lines: Iterator[str]) -> UUID:
    database = Database(system.database_url, changed_by="bench")
    async with database.session() as session:
        project = await get_or_create(session, "bench")
        job = await ingest_file(
            session, project_id=project.id, type="TASK", stream=_bytes(lines), file_name="bench.csv"
        )
    await database.close()
    return job.id


async def _bytes(lines: Iterator[str]) -> AsyncIterator[bytes]:
    yield HEADER.encode()
    while block := "".join(islice(lines, ROWS_AT_ONCE)):
        yield block.encode()


def _peak(pid: int) -> float:
    """Return the peak resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1_024 / MEGABYTE
    raise RuntimeError("this operating system does not report the peak memory of a process")


def _copy(system: System, rows: int, *, into: str) -> Ingested:
    """COPY the same records in one transaction, without parsing, comparing or counting them."""
    system.postgres.execute(f"DROP TABLE IF EXISTS bench_records; {PLAIN}")
    project = system.value("INSERT INTO operations.projects (name) VALUES ('bench') RETURNING id")
    blocks = list(_copy_blocks(rows, project))
    system.postgres.execute("CHECKPOINT")
    with connect(system.database_url) as connection, connection.cursor() as cursor:
        meter = Meter(system, {})
        start = system.value("SELECT extract(epoch FROM clock_timestamp())::float8")
        with cursor.copy(f"COPY {into} {COLUMNS} FROM STDIN".encode()) as copy:
            for block in blocks:
                copy.write(block)
        connection.commit()
        seconds = system.value("SELECT extract(epoch FROM clock_timestamp())::float8") - start
        cpu = meter.used()["postgres"]
    _empty(system)
    return Ingested(rows / seconds, cpu * 1e6 / rows, 0.0)


def _copy_blocks(rows: int, project: UUID) -> Iterator[bytes]:
    block: list[str] = []
    for number, row in enumerate(_short_rows(rows)):
        id_, content, category, author = row.rstrip("\n").split(",")
        metadata = f'{{"id": "{id_}", "prompt": "{content}", "category": "{category}", "author": "{author}"}}'
        cells = (project, "TASK", category or "\\N", SOURCE, content, metadata, author, author)
        block.append("\t".join(map(str, cells)) + "\n")
        if len(block) == ROWS_AT_ONCE or number == rows - 1:
            yield "".join(block).encode()
            block.clear()


def _empty(system: System) -> None:
    system.postgres.execute("TRUNCATE operations.projects CASCADE")
    system.postgres.execute("DROP TABLE IF EXISTS bench_records")
    clean(system)
