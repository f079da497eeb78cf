"""What the proving tables' jobs do in a benchmark: nothing, sleep, note the time, or make an HTTP call.

Registered apart from the tests' own handlers of the same stages: a process uses one or the other.
"""

import asyncio
import os
import time
from datetime import timedelta
from functools import cache

from pydantic import BaseModel

from benchmarks.http_client import HttpClient
from models.operations import IngestJob
from tests.support.proving.models import LIMIT, KeyedJob, PlainJob, ProvingJob
from tests.support.proving.stages import Act
from workers.ingestion.ingest_csv import IngestRequest, ingest_csv
from workers.runtime.handler.context import Context
from workers.runtime.handler.limits import Limit
from workers.runtime.handler.outcomes import Complete, Outcome
from workers.runtime.handler.ports import Message
from workers.runtime.handler.registry import Registry, stage

# Where calls go; a server that answers after a while (benchmarks/http_server.py).
CALL_URL = "GRISTMILL_BENCH_CALL_URL"
STAGES = Registry()
QUESTION: list[Message] = [{"role": "user", "content": "How good is it?"}]


class Verdict(BaseModel):
    """What the asked model answers."""

    overall: float


@cache
def client() -> HttpClient:
    """Return this process's connections to the server that is called."""
    return HttpClient(os.environ[CALL_URL])


async def perform(job: ProvingJob, ctx: Context) -> Outcome:
    """Do what the row says; an empty row is a no-op."""
    match job.act:
        case "stamp":
            return Complete(values={"result": {"handler_started": time.time()}})
        case "call":
            await client().post(b"{}")
        case "ask":
            await ctx.llm.parse(QUESTION, into=Verdict, model="bench")
        case _ if job.seconds:
            await asyncio.sleep(job.seconds)
    return Complete()


@stage("proving.plain", of=PlainJob, payload=Act, timeout=timedelta(minutes=10), into=STAGES)
async def plain(job: PlainJob, ctx: Context) -> Outcome:
    """Perform without any limit."""
    return await perform(job, ctx)


@stage(
    "proving.keyed",
    of=KeyedJob,
    payload=Act,
    limit=Limit("key", at_most=LIMIT),
    timeout=timedelta(minutes=10),
    into=STAGES,
)
async def keyed(job: KeyedJob, ctx: Context) -> Outcome:
    """Perform within the limit of the job's key."""
    return await perform(job, ctx)


# The real handler: what it does is what is measured.
stage("ingestion.ingest", of=IngestJob, payload=IngestRequest, timeout=timedelta(hours=6), into=STAGES)(ingest_csv)
