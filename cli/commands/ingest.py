"""``gristmill ingest``."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.errors import WrongUsageError
from cli.output import Json, print_json, printable

if TYPE_CHECKING:
    from cli.ingesting import HandedIn
    from workers.runtime.database import Database

TYPES = {"task": "TASK", "feedback": "FEEDBACK"}


def ingest(
    file: Annotated[Path, typer.Argument(metavar="FILE.csv", help="CSV in any usual encoding and delimiter.")],
    *,
    project: Annotated[str, typer.Option(metavar="NAME", help="Project to put the records into; new if need be.")],
    type_: Annotated[str, typer.Option("--type", metavar="task|feedback", help="What the records are.")],
    map_: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="FIELD=COLUMN", help="content, category, type, creator, …; FIELD= for none."),
    ] = None,
    priority: Annotated[int, typer.Option(min=1, max=10, help="1 first … 10 last.")] = 5,
    key: Annotated[str | None, typer.Option(help="Idempotency key: a repeat returns the first job.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the job to its end; exit 1 unless completed.")] = False,
    as_json: Json = False,
) -> int:
    """Make records of a CSV's rows, each once, and embed them; tell which were skipped and why."""
    if type_.lower() not in TYPES:
        raise WrongUsageError(f"--type must be task or feedback, got {type_!r}")
    mapping = _mapping(map_ or [])
    from cli.ingesting import hand_in
    from cli.session import in_database

    async def put(database: "Database") -> "HandedIn":
        said = {"type": TYPES[type_.lower()], "priority": priority}
        return await hand_in(database, file, project=project, mapping=mapping, idempotency_key=key, **said)

    handed_in = in_database(put)
    told = {
        "id": handed_in.job.id,
        "created": handed_in.job.created,
        "stage": "ingestion.ingest",
        "project": handed_in.project,
        "project_id": handed_in.project_id,
    }
    if wait:
        return _wait(told, as_json=as_json)
    if as_json:
        print_json(told)
    else:
        print(handed_in.job.id)
    return 0


def _wait(told: dict[str, object], *, as_json: bool) -> int:
    from uuid import UUID

    from cli.addresses import addresses
    from cli.ingesting import follow, progress, summary
    from config.settings import load

    if not as_json:
        print(told["id"], flush=True)
    with progress() as show:
        seen = asyncio.run(follow(addresses(load()).database_url, UUID(str(told["id"])), show=show))
    if as_json:
        print_json({**told, "job": seen})
    else:
        print(printable("\n".join(summary(seen))))
    return 0 if seen.completed else 1


def _mapping(given: list[str]) -> dict[str, str]:
    mapping: dict[str, str] = {}
    for one in given:
        field, equals, column = one.partition("=")
        if not equals or not field.strip():
            raise WrongUsageError(f"--map must be FIELD=COLUMN, such as content=prompt, got {one!r}")
        if field.strip() in mapping:
            raise WrongUsageError(f"--map names {field.strip()!r} twice")
        mapping[field.strip()] = column
    return mapping
