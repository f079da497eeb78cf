"""Wait for the end of a job: ``?wait=30``."""

import asyncio
from contextlib import aclosing, suppress
from typing import Annotated

from fastapi import Query, Request
from starlette.requests import ClientDisconnect

from gateway.disconnects import await_disconnect
from gateway.limits import without_place
from gateway.resources import services_of
from workers.runtime.operate.events import JobEvents
from workers.runtime.operate.jobs import JobView, UnknownJob

MAX_WAIT_SECONDS = 60.0
Wait = Annotated[
    float,
    Query(
        ge=0,
        le=MAX_WAIT_SECONDS,
        allow_inf_nan=False,
        description="answer when the job has ended, or after so many seconds with the job as it is then",
    ),
]


async def wait_for_end(request: Request, job: JobView, seconds: float) -> None:
    """Return when the job has ended, when the time is up, or when this process stops. Takes no place meanwhile.

    Raise ClientDisconnect if the client has gone.
    """
    services = services_of(request)
    if seconds <= 0 or job.completed_at is not None:
        return
    async with without_place(request):
        gone = asyncio.ensure_future(await_disconnect(request.receive))
        others = (
            asyncio.ensure_future(_follow_to_end(services.events, job)),
            asyncio.ensure_future(services.stopping.wait()),
        )
        try:
            await asyncio.wait((gone, *others), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                raise ClientDisconnect
            if others[0].done():
                others[0].result()
        finally:
            for one in (gone, *others):
                one.cancel()
            await asyncio.gather(gone, *others, return_exceptions=True)


async def _follow_to_end(events: JobEvents, job: JobView) -> None:
    with suppress(UnknownJob):  # deleted: the caller reads it again
        async with aclosing(events.follow(job.id, table=job.table_name)) as states:
            async for _ in states:
                pass
