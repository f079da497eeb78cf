"""Vectors of one job's records: how busy the job keeps a provider, and the recall, cost and size of their index."""

import json
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from redis import Redis

from benchmarks.corpus import sentences
from benchmarks.figures import OURS, Figure, figure
from benchmarks.gristmill import clean
from benchmarks.parts import Bench
from benchmarks.system import System, processes, served, wait_for
from workers.llm.feature_hash import vector
from workers.vectorization.similar import EF_SEARCH

SLOTS, BATCH = 8, 64
# A provider of 512 records a second, and one that takes no time.
SERVICE_SECONDS, NO_SECONDS = 1.0, 0.0
# Each entry of the index costs the database milliseconds. This contender shows how much of the time that is.
UNINDEXED = "without index"
PATIENCE = 600.0
QUERIES, NEAREST = 50, 10
ADD = """INSERT INTO operations.data_records ("projectId", type, source, content, "ingestJobId")
         SELECT %s, 'TASK', 'csv:bench.csv', content, %s FROM unnest(%s::text[]) AS content"""
# Makes a job in the state after its first stage.
QUEUE = """
    BEGIN;
    INSERT INTO operations.ingest_jobs (id, "projectId", type, source)
    VALUES ('{job}', '{project}', 'TASK', 'csv:bench.csv');
    UPDATE operations.ingest_jobs SET status = 'PROCESSING', version = version + 1 WHERE id = '{job}';
    UPDATE operations.ingest_jobs SET status = 'QUEUED_FOR_VEC', version = version + 1 WHERE id = '{job}';
    COMMIT"""
ENDED = "SELECT status IN ('COMPLETED', 'FAILED') FROM operations.ingest_jobs WHERE id = %s"
# The same search with an index of either kind. Both indexes use the vectors of the same column.
FIND = """SELECT id FROM operations.data_records WHERE cardinality(embedding) = 384
           ORDER BY (embedding::{type}(384)) <=> %s::{type}(384) LIMIT {limit}"""
INDEX = """CREATE INDEX bench_embedding ON operations.data_records
            USING hnsw ((embedding::{type}(384)) {type}_cosine_ops) WITH (m = 12, ef_construction = 48)
            WHERE cardinality(embedding) = 384"""


@dataclass(frozen=True, slots=True)
class Embedded:
    """The measurement of one job, by the provider's counters."""

    rate: float
    busy: float


@dataclass(frozen=True, slots=True)
class Searched:
    """The recall, the search time and the size of an index."""

    recall: float
    milliseconds: float
    megabytes: float
    build_seconds: float


def run(bench: Bench) -> Iterator[Figure]:
    """Embed one job's records again and again with a provider of eight slots; then search them."""
    system, records = bench.system, bench.sizes.embed_records
    with _provider(records, SERVICE_SECONDS) as url, _roles(system, url):
        embedded = bench.interleaved(
            {
                OURS: lambda: _embed(system, url, records, index=True),
                UNINDEXED: lambda: _embed(system, url, records, index=False),
            }
        )
    with _provider(records, NO_SECONDS) as url, _roles(system, url):
        bench.say("a provider that takes no time")
        most = {
            UNINDEXED: _embed(system, url, records, index=False).rate,
            OURS: _embed(system, url, records, index=True).rate,
        }
    title = f"{records:,} records, requests of {BATCH} that take {SERVICE_SECONDS:g} s, {SLOTS} at once"
    busy = {who: [one.busy * 100 for one in found] for who, found in embedded.items()}
    yield figure("embed_busy", f"{title}: provider busy", "%", busy)
    rates = {who: [one.rate for one in found] for who, found in embedded.items()}
    rates["provider"] = [SLOTS * BATCH / SERVICE_SECONDS] * len(embedded[OURS])
    yield figure("embed_rate", "… embedded and kept", "records/s", rates)
    yield figure("embed_most", "… by a provider that takes no time", "records/s", most)
    bench.say("searching")
    searched = {name: _search(bench.system, type_) for name, type_ in ((OURS, "halfvec"), ("vector", "vector"))}
    for name, title, unit, value in (
        ("recall", "recall at 10, index against all", "%", "recall"),
        ("search", "… one search", "ms", "milliseconds"),
        ("index", "… size of the index", "MB", "megabytes"),
        ("build", "… built anew", "s", "build_seconds"),
    ):
        yield figure(f"embed_{name}", title, unit, {who: getattr(found, value) for who, found in searched.items()})
    bench.system.postgres.execute("DELETE FROM operations.projects")
    bench.system.postgres.execute("DROP INDEX operations.bench_embedding")
    bench.system.postgres.execute(bench.system.value("SELECT operations.embedding_index(384)").encode())
    clean(bench.system)


def _provider(records: int, seconds: float) -> AbstractContextManager[str]:
    """Run the provider while the block runs; yield its base URL."""
    sizes = ("--slots", str(SLOTS), "--seconds", str(seconds), "--texts", str(records))
    return served("benchmarks.embeddings_server", *sizes)


@contextmanager
def _roles(system: System, url: str) -> Iterator[None]:
    """Run a worker and a dispatcher like a deployed system."""
    urls = {
        "OPENAI_BASE_URL": url,
        "GRISTMILL_LLM__EMBEDDING_MODEL": "bench",
        "GRISTMILL_LLM__EMBEDDING_BATCH": str(BATCH),
        "GRISTMILL_LLM__EMBEDDING_CONCURRENCY": str(SLOTS),
        "GRISTMILL_WORKER__QUEUES": "vectorization",
    }
    with Redis.from_url(system.redis_url) as redis:
        redis.flushall()
    system.postgres.execute("DELETE FROM runtime.workers")
    commands = [[sys.executable, "-m", "cli.main", role] for role in ("worker", "dispatcher")]
    with processes(commands, {**system.environment, **urls}, log=system.folder / "roles.log") as pids:
        up = "SELECT EXISTS (SELECT FROM runtime.workers) AND EXISTS (SELECT FROM runtime.dispatcher)"
        wait_for(lambda: system.value(up), seconds=120, alive=pids)
        yield


def _embed(system: System, url: str, records: int, *, index: bool) -> Embedded:
    """Replace all records by ``records`` new ones and let one job embed them."""
    system.postgres.execute("DELETE FROM operations.projects")
    system.postgres.execute("DROP INDEX IF EXISTS operations.ix_data_records_embedding_384")
    if index:
        system.postgres.execute(system.value("SELECT operations.embedding_index(384)").encode())
    clean(system)
    system.postgres.execute("VACUUM ANALYZE operations.data_records")
    project = system.value("INSERT INTO operations.projects (name) VALUES ('bench') RETURNING id")
    job = uuid4()
    system.postgres.execute(ADD, (project, job, list(sentences(records))))
    _statistics(url)
    system.postgres.execute(QUEUE.format(job=job, project=project).encode())
    wait_for(lambda: system.value(ENDED, [job]), seconds=PATIENCE, every=0.1)
    _assert_complete(system, job, records)
    counted = _statistics(url)
    seconds = system.value("SELECT extract(epoch FROM completed_at - started_at)::float8 FROM operations.ingest_jobs")
    return Embedded(records / seconds, counted["busy"])


def _assert_complete(system: System, job: UUID, records: int) -> None:
    row = system.postgres.execute(
        'SELECT status, "embeddedCount", error FROM operations.ingest_jobs WHERE id = %s', (job,)
    ).fetchone()
    if row is None or row[:2] != ("COMPLETED", records):
        raise RuntimeError(f"the job ended as {row}")


def _search(system: System, type_: str) -> Searched:
    """Build an index of one kind, and compare its results with a search through all records."""
    began = time.monotonic()
    with system.postgres.transaction():
        system.postgres.execute(
            "DROP INDEX IF EXISTS operations.ix_data_records_embedding_384, operations.bench_embedding"
        )
        system.postgres.execute(INDEX.format(type=type_).encode())
    built = time.monotonic() - began
    system.postgres.execute("ANALYZE operations.data_records")
    size = system.value("SELECT pg_relation_size('operations.bench_embedding')")
    queries = [str(list(vector(text))) for text in sentences(QUERIES, seed=7)]
    exact = [set(_find(system, "vector", query, index=False)) for query in queries]
    began = time.monotonic()
    found = [_find(system, type_, query, index=True) for query in queries]
    took = time.monotonic() - began
    hits = sum(len(near.intersection(ids)) for near, ids in zip(exact, found, strict=True))
    return Searched(hits * 100 / (QUERIES * NEAREST), took * 1_000 / QUERIES, size / 1_000_000, built)


def _find(system: System, type_: str, query: str, *, index: bool) -> Sequence[UUID]:
    """Return the nearest records. The planner is forced to use the index or not to use it."""
    with system.postgres.transaction():
        pin = "enable_sort" if index else "enable_indexscan"
        system.postgres.execute(f"SET LOCAL {pin} = off".encode())
        system.postgres.execute(f"SET LOCAL hnsw.ef_search = {EF_SEARCH}".encode())
        rows = system.postgres.execute(FIND.format(type=type_, limit=NEAREST).encode(), (query,)).fetchall()
    return [row[0] for row in rows]


def _statistics(url: str) -> dict[str, Any]:
    """Return the provider's counters since the last call."""
    with urllib.request.urlopen(url.replace("/v1", "/stats"), timeout=10) as answer:  # noqa: S310 - our own server
        counted: dict[str, Any] = json.load(answer)
        return counted
