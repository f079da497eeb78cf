"""``gristmill ingest``."""

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer

from cli import ingesting, previewing
from cli.file_upload import UploadedFile, upload_file
from cli.output import Json, print_json, remark
from cli.server_urls import find_server_urls
from cli.session import in_database
from config.settings import load
from workers.ingestion.options import InvalidOption, clean_options
from workers.runtime.database import Database
from workers.runtime.refusals import Failed, Refusal, printable

TYPES = {"task": "TASK", "feedback": "FEEDBACK"}


def ingest(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE|-", help="CSV, JSON, JSON Lines, .xlsx, or one of these in gzip; - is standard input."
        ),
    ],
    *,
    project: Annotated[
        str, typer.Option(metavar="NAME", help="Project of the records. It is made if it does not exist.")
    ],
    type_: Annotated[str, typer.Option("--type", metavar="task|feedback", help="Type of the records.")],
    map_: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="FIELD=COLUMN",
            help="content, category, type, creator, …; FIELD= for none; content='{title}: {text}' joins columns.",
        ),
    ] = None,
    encoding: Annotated[
        str | None, typer.Option(help="For example cp1251, gbk or shift_jis, which are not detected.")
    ] = None,
    delimiter: Annotated[str | None, typer.Option(help="One character, or comma, semicolon, tab, pipe, space.")] = None,
    quote: Annotated[str | None, typer.Option(help="One character, or none if nothing is quoted.")] = None,
    skip_rows: Annotated[int, typer.Option(min=0, max=10_000, help="Rows above the header to skip.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show how the file would be read; save nothing.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Wait for the end; exit code 1 if most rows are skipped or rows are cut.")
    ] = False,
    priority: Annotated[int, typer.Option(min=1, max=10, help="1 first … 10 last.")] = 5,
    key: Annotated[
        str | None, typer.Option(help="Idempotency key: a second call with it returns the first job.")
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for the end of the job; exit code 1 unless it completes.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Make records from the rows of a file, each once, and embed them; show which rows were skipped and why."""
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

    async def upload(database: Database) -> UploadedFile:
        options = {"type": TYPES[type_.lower()], "priority": priority}
        return await upload_file(
            database, file, project=project, mapping=mapping, reading=reading, idempotency_key=key, **options
        )

    uploaded = in_database(upload)
    facts: dict[str, object] = {
        "id": uploaded.job.id,
        "created": uploaded.job.created,
        "stage": "ingestion.ingest",
        "project": uploaded.project,
        "project_id": uploaded.project_id,
    }
    if wait or strict:
        return _wait(facts, strict=strict, as_json=as_json)
    if as_json:
        print_json(facts)
    else:
        print(uploaded.job.id)
    return 0


def _reading(**given: Any) -> dict[str, Any]:
    """Return the options for reading the file, those that were given."""
    try:
        return clean_options(given)
    except InvalidOption as error:  # with the name of the command line option
        raise Refusal(f"--{str(error).replace('skip_rows', 'skip-rows', 1)}") from None


def _dry_run(file: Path, *, strict: bool, as_json: bool, **how: Any) -> int:
    preview, name = previewing.preview_file(file, **how), previewing.file_name(file)
    problems = previewing.preview_problems(preview)
    if as_json:
        print_json({"file": name, "problems": problems, **asdict(preview)})
    else:
        print(printable("\n".join(previewing.preview_lines(name, preview))))
    return _report_problems(problems) if strict else 0


def _require_sound(file: Path, **how: Any) -> None:
    """Raise Failed, before anything is saved, if --strict refuses the file."""
    if problems := previewing.preview_problems(previewing.preview_file(file, **how)):
        raise Failed(f"{previewing.file_name(file)}: {'; '.join(problems)}; nothing was saved, because of --strict")


def _report_problems(problems: list[str]) -> int:
    for problem in problems:
        remark(f"--strict: {problem}")
    return 1 if problems else 0


def _wait(facts: dict[str, object], *, strict: bool, as_json: bool) -> int:
    if not as_json:
        print(facts["id"], flush=True)
    database_url, job_id = find_server_urls(load()).database_url, UUID(str(facts["id"]))
    with ingesting.ingestion_display() as show:
        seen = asyncio.run(ingesting.follow_ingestion(database_url, job_id, show=show))
    if as_json:
        print_json({**facts, "job": seen, "problems": ingesting.ingestion_problems(seen)})
    else:
        print(printable("\n".join(ingesting.ingestion_lines(seen))))
    if strict and seen.completed:
        return _report_problems(ingesting.ingestion_problems(seen))
    return 0 if seen.completed else 1


def _mapping(given: list[str]) -> dict[str, str]:
    mapping: dict[str, str] = {}
    for one in given:
        field, equals, column = one.partition("=")
        if not equals or not field.strip():
            raise Refusal(f"--map must be FIELD=COLUMN, for example content=prompt, got {one!r}")
        if field.strip() in mapping:
            raise Refusal(f"--map names {field.strip()!r} twice")
        mapping[field.strip()] = column
    return mapping
