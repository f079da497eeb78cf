"""The pattern that most projects start with, for comparison.

One Celery message per job, an ORM session, three commits, a row-level audit trigger. There is no fence and no recovery:
a killed worker or a flushed Redis loses jobs.
"""

import os
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery
from sqlalchemy import create_engine, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from benchmarks.gristmill import PATIENCE, Drained, Running, arrivals, percentiles
from benchmarks.system import Meter, System, processes, wait_for

SCHEMA = """
CREATE TABLE naive_jobs (
  id uuid PRIMARY KEY, status varchar(20) NOT NULL DEFAULT 'pending', seconds float8 NOT NULL DEFAULT 0,
  progress int NOT NULL DEFAULT 0, created_at timestamptz NOT NULL DEFAULT now(), started_at timestamptz,
  completed_at timestamptz, updated_at timestamptz NOT NULL DEFAULT now(), handler_started float8);
CREATE INDEX ON naive_jobs (status);
CREATE INDEX ON naive_jobs (created_at DESC);
CREATE INDEX ON naive_jobs (status, updated_at DESC);
CREATE TABLE naive_audit (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(), job_id uuid NOT NULL, old_state varchar(20), new_state varchar(20),
  created_at timestamptz NOT NULL DEFAULT now());
CREATE FUNCTION naive_audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO naive_audit (job_id, old_state, new_state) VALUES (NEW.id, OLD.status, NEW.status); RETURN NEW;
END $$;
CREATE TRIGGER audit AFTER UPDATE ON naive_jobs FOR EACH ROW EXECUTE FUNCTION naive_audit();
"""

app = Celery("naive", broker=os.environ.get("REDIS_URL"))
app.conf.update(task_ignore_result=True, worker_prefetch_multiplier=4, broker_connection_retry_on_startup=True)


class Base(DeclarativeBase):
    pass


class NaiveJob(Base):
    __tablename__ = "naive_jobs"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    status: Mapped[str]
    seconds: Mapped[float]
    progress: Mapped[int]
    handler_started: Mapped[float | None]


_engine: Any = None


def engine() -> Any:
    """Return this process's engine, made after the fork."""
    global _engine  # noqa: PLW0603 - as a naive project does
    if _engine is None:
        _engine = create_engine(os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://", 1))
    return _engine


@app.task(name="naive.work")
def work(job_id: str) -> None:
    """Load, mark as processing, commit; work, write the progress, commit; mark as completed, commit."""
    entered = time.time()
    with Session(engine(), expire_on_commit=True) as session:
        job = session.get_one(NaiveJob, uuid.UUID(job_id))
        job.status = "processing"
        session.commit()
        if job.seconds:
            time.sleep(job.seconds)
        job.progress = 50
        session.commit()
        job.status, job.progress, job.handler_started = "completed", 100, entered
        session.commit()


@contextmanager
def naive(system: System, *, concurrency: int) -> Iterator[Running]:
    """Run one prefork worker, warmed up. Its rows are deleted at the end."""
    app.conf.update(broker_url=system.redis_url)
    if not system.value("SELECT to_regclass('naive_jobs') IS NOT NULL"):
        system.postgres.execute(SCHEMA.encode())
    options = ["--pool=prefork", f"--concurrency={concurrency}", "--loglevel=ERROR", "--without-gossip"]
    command = [sys.executable, "-m", "celery", "-A", "benchmarks.naive", "worker", *options]
    with processes([command], system.environment, log=system.folder / "naive.log") as pids:
        running = Running(system, {"workers": pids})
        drain(running, 10 * concurrency)
        yield running
    system.postgres.execute("TRUNCATE naive_jobs, naive_audit")
    system.postgres.execute("CHECKPOINT")


def drain(running: Running, jobs: int, *, seconds: float = 0.0) -> Drained:
    """Commit ``jobs`` rows, then publish; measure from the first message to the last commit."""
    system = running.system
    with Session(system.engine) as session:
        ids = enqueue(session, jobs, seconds=seconds)
        session.commit()
    start, meter = time.time(), Meter(system, running.groups)
    publish(ids)
    wait_until_drained(running)
    cpu = meter.used()
    last = system.value("SELECT extract(epoch FROM max(created_at))::float8 FROM naive_audit")
    return Drained(jobs, float(last) - start, cpu)


def wait_until_drained(running: Running) -> None:
    """Return once every row is completed."""
    left = "SELECT count(*) FROM naive_jobs WHERE status <> 'completed'"
    wait_for(lambda: not running.system.value(left), seconds=PATIENCE, every=0.1, alive=running.pids)


def latency(running: Running, *, rate: float, seconds: float) -> dict[str, float]:
    """Enqueue at ``rate`` jobs/s, commit, then publish; return commit-to-handler percentiles."""
    system = running.system
    committed: dict[str, float] = {}
    start = time.time()
    with (
        Session(system.engine) as session,
        app.connection_for_write() as connection,
        app.amqp.Producer(connection) as producer,
    ):
        for at in arrivals(rate, seconds):
            time.sleep(max(0.0, start + at - time.time()))
            (job_id,) = enqueue(session, 1)
            session.commit()
            committed[job_id] = time.time()
            app.send_task("naive.work", args=[job_id], producer=producer)
    wait_until_drained(running)
    started = system.postgres.execute("SELECT id::text, handler_started FROM naive_jobs").fetchall()
    return percentiles([at - committed[job_id] for job_id, at in started if job_id in committed])


def enqueue(session: Session, count: int, *, seconds: float = 0.0) -> list[str]:
    """Insert ``count`` rows. The caller commits and then publishes; a crash in between loses jobs."""
    ids = [str(uuid.uuid4()) for _ in range(count)]
    session.execute(
        text("INSERT INTO naive_jobs (id, seconds) SELECT unnest(CAST(:ids AS uuid[])), :seconds"),
        {"ids": ids, "seconds": seconds},
    )
    return ids


def publish(ids: list[str]) -> None:
    """Send one message per job over one connection."""
    with app.connection_for_write() as connection, app.amqp.Producer(connection) as producer:
        for job_id in ids:
            app.send_task("naive.work", args=[job_id], producer=producer)
