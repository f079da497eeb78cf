"""``gristmill enqueue``."""

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.completing import stages
from cli.output import Json, print_json, remark
from cli.values import parse_payload, parse_time

if TYPE_CHECKING:
    from workers.runtime.enqueue import Enqueued


def enqueue(
    stage: Annotated[str, typer.Argument(help="Stage to enqueue for, such as scoring.score.", autocompletion=stages)],
    *,
    payload: Annotated[str, typer.Option(metavar="JSON|@FILE", help="Payload; @- reads standard input.")],
    key: Annotated[str | None, typer.Option(help="Idempotency key: a repeat returns the first job.")] = None,
    priority: Annotated[int, typer.Option(min=1, max=10, help="1 first … 10 last.")] = 5,
    at: Annotated[str | None, typer.Option(metavar="TIME", help="Not before this time (ISO 8601).")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the job to its end; exit 1 unless completed.")] = False,
    as_json: Json = False,
) -> int:
    """Enqueue one job and print its id."""
    values, due_at = parse_payload(payload), parse_time(at) if at else None
    from workers.runtime.handler.registry import discover

    _ = discover()[stage]  # an unknown stage is said before anything is connected
    from cli.addresses import addresses
    from config.settings import load

    database_url = addresses(load()).database_url
    job = asyncio.run(_put(database_url, stage, values, key=key, priority=priority, due_at=due_at))
    if not wait:
        if as_json:
            print_json({"id": job.id, "created": job.created, "stage": stage})
        else:
            print(job.id)
        return 0
    from cli.following import follow

    if not as_json:
        print(job.id, flush=True)
    ended = asyncio.run(follow(database_url, job.id, tell=remark))
    if as_json:
        print_json({"id": job.id, "created": job.created, "stage": stage, "job": ended.job})
    return 0 if ended.completed else 1


async def _put(
    database_url: str, stage: str, payload: dict[str, Any], *, key: str | None, priority: int, due_at: datetime | None
) -> "Enqueued":
    from cli.connection import opened
    from workers.runtime.enqueue import enqueue as put

    async with opened(database_url) as database, database.session() as session:
        return await put(session, stage, payload, idempotency_key=key, priority=priority, due_at=due_at)
