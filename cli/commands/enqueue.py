"""``gristmill enqueue``."""

import asyncio
from typing import Annotated

import typer

from cli.completing import complete_stage
from cli.connection import actor
from cli.following import follow_job
from cli.output import Json, print_json, remark
from cli.server_urls import find_server_urls
from cli.session import in_session
from cli.values import parse_payload, parse_time
from config.settings import load
from workers.notifications.rules import check_url
from workers.outbound.addresses import parse_networks
from workers.runtime.handler.registry import discover
from workers.runtime.operate.jobs import enqueue_job


def enqueue(
    stage: Annotated[str, typer.Argument(help="The stage, for example scoring.score.", autocompletion=complete_stage)],
    *,
    payload: Annotated[
        str, typer.Option(metavar="JSON|@FILE", help="The payload. @FILE reads a file, @- standard input.")
    ],
    key: Annotated[
        str | None, typer.Option(help="Idempotency key: a second call with it returns the first job.")
    ] = None,
    priority: Annotated[int, typer.Option(min=1, max=10, help="1 first … 10 last.")] = 5,
    at: Annotated[str | None, typer.Option(metavar="TIME", help="Do not run before this time (ISO 8601).")] = None,
    lane: Annotated[
        str | None,
        typer.Option(metavar="normal|batch", help="batch: language models answer for half the price, within a time."),
    ] = None,
    within: Annotated[
        str | None,
        typer.Option(metavar="SPAN", help="How long an answer in the batch lane may take: 24h (default), 90m, 2d."),
    ] = None,
    callback: Annotated[
        str | None, typer.Option(metavar="URL", help="The address that is told when the job has ended.")
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for the end of the job; exit code 1 unless it completes.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Enqueue one job and print its id."""
    values, due_at = parse_payload(payload), parse_time(at) if at else None
    _ = discover()[stage]  # an unknown stage is refused before the command connects
    options = {"idempotency_key": key, "priority": priority, "due_at": due_at, "lane": lane, "within": within}
    settings = load()
    if callback is not None:
        options["callback_url"] = check_url(
            callback, allow=parse_networks(settings.outbound.allow), field_name="callback_url"
        )
    database_url = find_server_urls(settings).database_url
    job = in_session(lambda session: enqueue_job(session, stage, values, actor(), **options), database_url=database_url)
    if not wait:
        if as_json:
            print_json({"id": job.id, "created": job.created, "stage": stage})
        else:
            print(job.id)
        return 0
    if not as_json:
        print(job.id, flush=True)
    followed = asyncio.run(follow_job(database_url, job.id, print_line=remark))
    if as_json:
        print_json({"id": job.id, "created": job.created, "stage": stage, "job": followed.job})
    return 0 if followed.succeeded else 1
