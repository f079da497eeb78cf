"""Handlers of the proving tables for benchmarks: do nothing, sleep, record the time, or make an HTTP call.

They have their own registry. A process uses these handlers or those of the tests for the same stages.
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

# The variable with the URL of the calls, a server that answers after a delay (benchmarks/http_server.py).
CALL_URL = "GRISTMILL_BENCH_CALL_URL"
STAGES = Registry()
QUESTION: list[Message] = [{"role": "user", "content": "How good is it?"}]


class Verdict(BaseModel):
    """The answer of the model."""

    overall: float


@cache
def client() -> HttpClient:
    """Return this process's HTTP client."""
    return HttpClient(os.environ[CALL_URL])


async def perform(job: ProvingJob, ctx: Context) -> Outcome:
    """Do what the row says. An empty row means nothing to do."""
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


# The real handler, which is measured.
stage("ingestion.ingest", of=IngestJob, payload=IngestRequest, timeout=timedelta(hours=6), into=STAGES)(ingest_csv)
