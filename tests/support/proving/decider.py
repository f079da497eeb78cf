"""Decide waiting jobs, and expire them like beat, in one process as fast as possible."""

import asyncio
import json
import random
from datetime import timedelta
from typing import Any

from tests.support.proving.models import WaitingJob
from workers.runtime.actor import Actor
from workers.runtime.beat.maintenance import expire_waits
from workers.runtime.database import Database, Raw
from workers.runtime.store.decide import Decision, decide

_WAITING = (
    "SELECT id, version, status FROM proving.waiting_jobs WHERE wait_until IS NOT NULL ORDER BY random() LIMIT 20"
)


def decide_for_ever(database_url: str, *, name: str, share: float = 0.5) -> int:
    """In each round decide a ``share`` of the waiting jobs and expire the overdue ones, until the process is ended.

    Each decision that won is a line of JSON on standard output.
    """
    asyncio.run(_decide_for_ever(database_url, name, share))
    return 0


async def _decide_for_ever(url: str, name: str, share: float) -> None:
    database = Database(url, changed_by=f"beat:{name}")
    draw = random.Random(name)
    actor = Actor(changed_by=name, change_reason=f"as {name} likes it", user_agent="decider")
    while True:
        async with database.kernel() as conn:
            for decision in await _choose(conn, draw, share):
                [one] = await decide(conn, WaitingJob, [decision], actor=actor)
                if one.won:
                    won: dict[str, Any] = {"job": str(decision.job_id), "version": one.version, "into": decision.into}
                    print(json.dumps({"won": won}), flush=True)  # noqa: T201
        await expire_waits(database)
        await asyncio.sleep(0.01)


async def _choose(conn: Raw, draw: random.Random, share: float) -> list[Decision]:
    rows = await (await conn.execute(_WAITING)).fetchall()
    choices = {wait.state: wait.decides for wait in WaitingJob.__lifecycle__.waits}
    return [
        Decision(job_id=id_, version=version, into=draw.choice(choices[status]), until=timedelta(seconds=0.2))
        for id_, version, status in rows
        if draw.random() < share
    ]
