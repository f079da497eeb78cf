"""``gristmill enqueue``."""

import asyncio
from typing import Annotated

import typer

from cli.addresses import addresses
from cli.completing import stages
from cli.connection import actor
from cli.following import follow
from cli.output import Json, print_json, remark
from cli.session import in_session
from cli.values import parse_payload, parse_time
from config.settings import load
from workers.runtime.handler.registry import discover
from workers.runtime.operate.jobs import enqueue_job


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
    _ = discover()[stage]  # an unknown stage is said before anything is connected
    options = {"idempotency_key": key, "priority": priority, "due_at": due_at}
    database_url = addresses(load()).database_url
    job = in_session(lambda session: enqueue_job(session, stage, values, actor(), **options), database_url=database_url)
    if not wait:
        if as_json:
            print_json({"id": job.id, "created": job.created, "stage": stage})
        else:
            print(job.id)
        return 0
    if not as_json:
        print(job.id, flush=True)
    ended = asyncio.run(follow(database_url, job.id, tell=remark))
    if as_json:
        print_json({"id": job.id, "created": job.created, "stage": stage, "job": ended.job})
    return 0 if ended.completed else 1
