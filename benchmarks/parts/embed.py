"""Vectors of one job's records: how busy it keeps a provider, and what the index of them finds, costs and weighs."""

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
# An entry of the index costs the database milliseconds: how much of the time is that?
UNINDEXED = "without index"
PATIENCE = 600.0
QUERIES, NEAREST = 50, 10
ADD = """INSERT INTO operations.data_records ("projectId", type, source, content, "ingestJobId")
         SELECT %s, 'TASK', 'csv:bench.csv', content, %s FROM unnest(%s::text[]) AS content"""
# As the first stage leaves a job behind.
QUEUE = """
    BEGIN;
    INSERT INTO operations.ingest_jobs (id, "projectId", type, source)
    VALUES ('{job}', '{project}', 'TASK', 'csv:bench.csv');
    UPDATE operations.ingest_jobs SET status = 'PROCESSING', version = version + 1 WHERE id = '{job}';
    UPDATE operations.ingest_jobs SET status = 'QUEUED_FOR_VEC', version = version + 1 WHERE id = '{job}';
    COMMIT"""
ENDED = "SELECT status IN ('COMPLETED', 'FAILED') FROM operations.ingest_jobs WHERE id = %s"
# The same search by an index of either kind; both read their vectors from the same column.
FIND = """SELECT id FROM operations.data_records WHERE cardinality(embedding) = 384
           ORDER BY (embedding::{type}(384)) <=> %s::{type}(384) LIMIT {limit}"""
INDEX = """CREATE INDEX bench_embedding ON operations.data_records
            USING hnsw ((embedding::{type}(384)) {type}_cosine_ops) WITH (m = 12, ef_construction = 48)
            WHERE cardinality(embedding) = 384"""


@dataclass(frozen=True, slots=True)
class Embedded:
    """One job's way through: as the provider saw it."""

    rate: float
    busy: float


@dataclass(frozen=True, slots=True)
class Searched:
    """What an index finds of what there is, in which time, and its size."""

    recall: float
    milliseconds: float
    megabytes: float
    build_seconds: float


def run(bench: Bench) -> Iterator[Figure]:
    """Embed one job's records again and again by a provider of eight slots; then search among them."""
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
    for name, said, unit, value in (
        ("recall", "recall at 10, index against all", "%", "recall"),
        ("search", "… one search", "ms", "milliseconds"),
        ("index", "… size of the index", "MB", "megabytes"),
        ("build", "… built anew", "s", "build_seconds"),
    ):
        yield figure(f"embed_{name}", said, unit, {who: getattr(found, value) for who, found in searched.items()})
    bench.system.postgres.execute("DELETE FROM operations.projects")
    bench.system.postgres.execute("DROP INDEX operations.bench_embedding")
    bench.system.postgres.execute(bench.system.value("SELECT operations.embedding_index(384)").encode())
    clean(bench.system)


def _provider(records: int, seconds: float) -> AbstractContextManager[str]:
    """Run the provider as long as the block lasts and give its base URL."""
    sizes = ("--slots", str(SLOTS), "--seconds", str(seconds), "--texts", str(records))
    return served("benchmarks.embeddings_server", *sizes)


@contextmanager
def _roles(system: System, url: str) -> Iterator[None]:
    """Run a worker and a dispatcher as a deployed system runs them."""
    told = {
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
    with processes(commands, {**system.environment, **told}, log=system.folder / "roles.log") as pids:
        up = "SELECT EXISTS (SELECT FROM runtime.workers) AND EXISTS (SELECT FROM runtime.dispatcher)"
        wait_for(lambda: system.value(up), seconds=120, alive=pids)
        yield


def _embed(system: System, url: str, records: int, *, index: bool) -> Embedded:
    """Have one job embed ``records``, in the place of those before it."""
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
    told = _statistics(url)
    seconds = system.value("SELECT extract(epoch FROM completed_at - started_at)::float8 FROM operations.ingest_jobs")
    return Embedded(records / seconds, told["busy"])


def _assert_complete(system: System, job: UUID, records: int) -> None:
    row = system.postgres.execute(
        'SELECT status, "embeddedCount", error FROM operations.ingest_jobs WHERE id = %s', (job,)
    ).fetchone()
    if row is None or row[:2] != ("COMPLETED", records):
        raise RuntimeError(f"the job ended as {row}")


def _search(system: System, type_: str) -> Searched:
    """Build an index of one kind alone, and hold what it finds against comparing with all."""
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
    """Return the nearest; the planner is told which way, for it is the index that is measured."""
    with system.postgres.transaction():
        pin = "enable_sort" if index else "enable_indexscan"
        system.postgres.execute(f"SET LOCAL {pin} = off".encode())
        system.postgres.execute(f"SET LOCAL hnsw.ef_search = {EF_SEARCH}".encode())
        rows = system.postgres.execute(FIND.format(type=type_, limit=NEAREST).encode(), (query,)).fetchall()
    return [row[0] for row in rows]


def _statistics(url: str) -> dict[str, Any]:
    """Return what the provider counted since it was last asked."""
    with urllib.request.urlopen(url.replace("/v1", "/stats"), timeout=10) as answer:  # noqa: S310 - our own server
        counted: dict[str, Any] = json.load(answer)
        return counted
