"""Handlers that do what their row says. Importing this module registers them."""

import asyncio
import ctypes
import os
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from tests.support.proving.models import LIMIT, KeyedJob, PlainJob, ProvingJob, TwoStepJob, WaitingJob
from workers.runtime.handler.context import Context
from workers.runtime.handler.errors import Permanent, RateLimited, Retryable
from workers.runtime.handler.limits import Limit
from workers.runtime.handler.outcomes import Cancel, Complete, Fail, Outcome, Rows, Snooze, Write
from workers.runtime.handler.registry import stage
from workers.runtime.handler.sql_door import SqlDoor


class Act(BaseModel):
    """The payload of a proving job."""

    model_config = ConfigDict(extra="forbid")

    act: str = "complete"
    seconds: float = 0.0
    key: str = ""


async def perform(job: ProvingJob, ctx: Context) -> Outcome:  # noqa: C901, PLR0911, PLR0912 - one act a case
    """Do ``job.act`` after ``job.seconds``."""
    entered = time.time()
    if job.seconds and job.act != "block":
        await asyncio.sleep(job.seconds)
    match job.act:
        case "complete":
            return Complete()
        case "result":
            return Complete(values={"result": {"attempt": ctx.run.attempt}})
        case "stamp":
            return Complete(values={"result": {"handler_started": entered}})
        case "wait":
            return Complete(into="awaiting_agent", until=timedelta(seconds=60)) if ctx.run.version < 6 else Complete()
        case "write":
            return Complete(values={"result": {"wrote": True}}, write=_effect(job, ctx))
        case "bad_write":
            return Complete(write=_refused)
        case "bad_value":
            return Complete(values={"result": {"nul": "a\x00b"}})
        case "foreign_value":
            return Complete(values={"version": 1})
        case "fail":
            return Fail("told to fail")
        case "cancel":
            return Cancel("told to cancel")
        case "snooze":
            return Snooze(timedelta(seconds=0.2), "told to snooze") if ctx.run.version < 4 else Complete()
        case "raise":
            raise RuntimeError("told to raise")
        case "permanent":
            raise Permanent("told to give up")
        case "rate_limited":
            raise RateLimited("told to wait", delay=timedelta(minutes=1))
        case "limited_and_kept":
            await ctx.checkpoint({})
            raise RateLimited("told to wait", delay=timedelta(minutes=1))
        case "limited_by_others":
            raise RateLimited("told to wait", delay=timedelta(minutes=1), others_decide=True)
        case "flaky" if ctx.run.attempt < 2:
            raise Retryable("told to try again")
        case "block":
            time.sleep(job.seconds)  # noqa: ASYNC251 - this act tests a handler that never yields
        case "spin":
            while True:  # it never ends
                pass
        case "hog":
            _allocate_without_end()
        case "break" if ctx.run.attempt < 2:
            _fail_the_settler()
            await asyncio.sleep(60)
        case "hold":
            async with ctx.session() as session:
                await session.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": max(job.seconds, 1.0)})
        case "die":
            os._exit(9)
        case "crash":
            ctypes.string_at(0)  # a segmentation fault
        case "nonsense":
            return "nonsense"  # type: ignore[return-value]
    return Complete()


def _allocate_without_end() -> None:
    """Allocate memory and touch every page until there is none. The process's address space is the limit."""
    taken = []
    while True:
        taken.append(b"x" * (16 * 1024 * 1024))


def _fail_the_settler() -> None:
    """Make a part of this worker fail with an unexpected error: there is no lane of that kind."""
    (task,) = (task for task in asyncio.all_tasks() if task.get_name() == "settler")
    coroutine: Any = task.get_coro()
    coroutine.cr_frame.f_locals["self"]._new.put_nowait(None)


def _effect(job: ProvingJob, ctx: Context) -> Write | Rows:
    """Add one to the job's effects, for half of the jobs by rows, for half by a callable, so that a settle has both."""
    row = (f"{type(job).__table__}", ctx.run.job_id)
    if ctx.run.job_id.int % 2:
        return Rows(_add_effects, [row])
    return lambda session: _add_effects(session, [row])


async def _add_effects(session: AsyncSession, rows: Sequence[tuple[str, UUID]]) -> None:
    table = rows[0][0]  # jobs that are settled together have the same table
    await session.execute(
        text(f"UPDATE {table} SET effects = effects + 1 WHERE id = ANY (:ids)"), {"ids": [id_ for _, id_ in rows]}
    )


async def _refused(session: AsyncSession) -> None:
    await session.execute(text("SELECT 1 / 0"))


@stage("proving.plain", of=PlainJob, payload=Act, timeout=timedelta(seconds=20), sql=SqlDoor(results=("result",)))
async def plain(job: PlainJob, ctx: Context) -> Outcome:
    """Perform without any limit."""
    return await perform(job, ctx)


@stage(
    "proving.keyed",
    of=KeyedJob,
    payload=Act,
    limit=Limit("key", at_most=LIMIT),
    timeout=timedelta(seconds=20),
    gate="act",
    calls="chat",
)
async def keyed(job: KeyedJob, ctx: Context) -> Outcome:
    """Perform at most three at once per key."""
    return await perform(job, ctx)


@stage("proving.first", of=TwoStepJob, payload=Act, timeout=timedelta(seconds=20), gate="key", calls="chat")
async def first(job: TwoStepJob, ctx: Context) -> Outcome:
    """Perform the first half."""
    return await perform(job, ctx)


@stage("proving.second", of=TwoStepJob, payload=Act, timeout=timedelta(seconds=20))
async def second(job: TwoStepJob, ctx: Context) -> Outcome:
    """Perform the second half."""
    return await perform(job, ctx)


@stage("proving.ask", of=WaitingJob, payload=Act, timeout=timedelta(seconds=20))
async def ask(job: WaitingJob, ctx: Context) -> Outcome:
    """Ask for an approval; the job waits for it, except with ``waive`` and ``fail_to_ask``.

    With ``wait_briefly`` it waits for ``job.seconds``.
    """
    match job.act:
        case "waive":
            return Complete(into="waived")
        case "fail_to_ask":
            return Fail("told to fail")
        case "wait_briefly":
            return Complete(until=timedelta(seconds=job.seconds))
        case _:
            await asyncio.sleep(job.seconds)
            return Complete()


@stage("proving.act", of=WaitingJob, payload=Act, timeout=timedelta(seconds=20))
async def act(job: WaitingJob, ctx: Context) -> Outcome:
    """Do what was approved. A job that waited briefly is done at once."""
    return Complete() if job.act == "wait_briefly" else await perform(job, ctx)
