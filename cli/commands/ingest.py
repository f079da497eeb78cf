"""``gristmill ingest``."""

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer

from cli import ingesting, previewing
from cli.addresses import addresses
from cli.handing_in import HandedIn, hand_in
from cli.output import Json, print_json, remark
from cli.session import in_database
from config.settings import load
from workers.ingestion.options import InvalidOption, clean_options
from workers.runtime.database import Database
from workers.runtime.refusals import Failed, Refusal, printable

TYPES = {"task": "TASK", "feedback": "FEEDBACK"}


def ingest(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE|-", help="CSV, JSON, JSON Lines, .xlsx, or gzip of one; - is standard input."),
    ],
    *,
    project: Annotated[str, typer.Option(metavar="NAME", help="Project to put the records into; new if need be.")],
    type_: Annotated[str, typer.Option("--type", metavar="task|feedback", help="What the records are.")],
    map_: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="FIELD=COLUMN",
            help="content, category, type, creator, …; FIELD= for none; content='{title}: {text}' joins columns.",
        ),
    ] = None,
    encoding: Annotated[
        str | None, typer.Option(help="Such as cp1251, gbk or shift_jis, which are not guessed.")
    ] = None,
    delimiter: Annotated[str | None, typer.Option(help="One character, or comma, semicolon, tab, pipe, space.")] = None,
    quote: Annotated[str | None, typer.Option(help="One character, or none where nothing is quoted.")] = None,
    skip_rows: Annotated[int, typer.Option(min=0, max=10_000, help="Rows above the header to pass over.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show how it would be read; save nothing.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit 1 when most rows are skipped or rows are cut; waits for the end.")
    ] = False,
    priority: Annotated[int, typer.Option(min=1, max=10, help="1 first … 10 last.")] = 5,
    key: Annotated[str | None, typer.Option(help="Idempotency key: a repeat returns the first job.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the job to its end; exit 1 unless completed.")] = False,
    as_json: Json = False,
) -> int:
    """Make records of a file's rows, each once, and embed them; tell which were skipped and why."""
    if type_.lower() not in TYPES:
        raise Refusal(f"--type must be task or feedback, got {type_!r}")
    mapping = _mapping(map_ or [])
    reading = _reading(encoding=encoding, delimiter=delimiter, quote=quote, skip_rows=skip_rows)
    if dry_run:
        return _dry_run(
            file, type_=TYPES[type_.lower()], mapping=mapping, reading=reading, strict=strict, as_json=as_json
        )
    if strict and file.is_file():
        _require_sound(file, type_=TYPES[type_.lower()], mapping=mapping, reading=reading)

    async def put(database: Database) -> HandedIn:
        said = {"type": TYPES[type_.lower()], "priority": priority}
        return await hand_in(
            database, file, project=project, mapping=mapping, reading=reading, idempotency_key=key, **said
        )

    handed_in = in_database(put)
    told = {
        "id": handed_in.job.id,
        "created": handed_in.job.created,
        "stage": "ingestion.ingest",
        "project": handed_in.project,
        "project_id": handed_in.project_id,
    }
    if wait or strict:
        return _wait(told, strict=strict, as_json=as_json)
    if as_json:
        print_json(told)
    else:
        print(handed_in.job.id)
    return 0


def _reading(**said: Any) -> dict[str, Any]:
    """Return the options that say how the file is to be read, those that were given."""
    try:
        return clean_options(said)
    except InvalidOption as error:  # named as the command line names it
        raise Refusal(f"--{str(error).replace('skip_rows', 'skip-rows', 1)}") from None


def _dry_run(file: Path, *, strict: bool, as_json: bool, **how: Any) -> int:
    seen, name = previewing.look_through(file, **how), previewing.file_name(file)
    problems = previewing.worst(seen)
    if as_json:
        print_json({"file": name, "problems": problems, **asdict(seen)})
    else:
        print(printable("\n".join(previewing.told(name, seen))))
    return _strictly(problems) if strict else 0


def _require_sound(file: Path, **how: Any) -> None:
    """Raise Failed before anything is saved where the file itself is what --strict refuses."""
    if problems := previewing.worst(previewing.look_through(file, **how)):
        raise Failed(f"{previewing.file_name(file)}: {'; '.join(problems)}; nothing was saved, because of --strict")


def _strictly(problems: list[str]) -> int:
    for problem in problems:
        remark(f"--strict: {problem}")
    return 1 if problems else 0


def _wait(told: dict[str, object], *, strict: bool, as_json: bool) -> int:
    if not as_json:
        print(told["id"], flush=True)
    with ingesting.progress() as show:
        seen = asyncio.run(ingesting.follow(addresses(load()).database_url, UUID(str(told["id"])), show=show))
    if as_json:
        print_json({**told, "job": seen, "problems": ingesting.worst(seen)})
    else:
        print(printable("\n".join(ingesting.summary(seen))))
    if strict and seen.completed:
        return _strictly(ingesting.worst(seen))
    return 0 if seen.completed else 1


def _mapping(given: list[str]) -> dict[str, str]:
    mapping: dict[str, str] = {}
    for one in given:
        field, equals, column = one.partition("=")
        if not equals or not field.strip():
            raise Refusal(f"--map must be FIELD=COLUMN, such as content=prompt, got {one!r}")
        if field.strip() in mapping:
            raise Refusal(f"--map names {field.strip()!r} twice")
        mapping[field.strip()] = column
    return mapping
