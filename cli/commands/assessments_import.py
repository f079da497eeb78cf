"""``gristmill assessments import``: import the assessments of the event-based system."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from cli.connection import actor
from cli.output import Json, print_json, print_table, remark
from cli.session import in_database
from workers.assessment.store.imports import ImportReport, import_file, import_table
from workers.runtime.database import Database
from workers.runtime.refusals import Refusal

MAX_REFUSED_SHOWN = 20


def import_(
    file: Annotated[
        Path | None, typer.Argument(exists=True, dir_okay=False, help="A CSV file with a header, or JSON lines.")
    ] = None,
    *,
    table: Annotated[
        str | None, typer.Option(help="A table of this database, for example existing_assessments.")
    ] = None,
    owner: Annotated[
        UUID | None, typer.Option(metavar="ID", help="The owner of the assessments. Default: no owner.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=10_000, help="Assessments per transaction.")] = 1_000,
    refused: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the refused entries here, as JSON lines.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Import assessments with their times and results. After an interruption run it again: nothing is imported twice.

    Exit code 1 if an entry is refused. Each refused entry is shown with its place and the reason.
    """
    if (table is None) == (file is None):
        raise Refusal("name a source: --table NAME or a CSV or JSON-lines FILE")
    who = replace(actor(), user_id=owner)

    async def import_all(database: Database) -> ImportReport:
        if file is not None:
            return await import_file(database, file, batch=batch, actor=who, tell=_print_progress)
        return await import_table(database, table or "", batch=batch, actor=who, tell=_print_progress)

    report = in_database(import_all)
    if refused is not None:
        lines = (json.dumps(asdict(one), ensure_ascii=False) for one in report.refused)
        refused.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    if as_json:
        print_json(report)
    else:
        _print(report)
    return 1 if report.refused else 0


def _print_progress(report: ImportReport) -> None:
    remark(f"{report.read:,} read, {report.taken.total():,} imported, {len(report.refused):,} refused")


def _print(report: ImportReport) -> None:
    counts = [
        ("read", report.read),
        *((f"imported as {state}", count) for state, count in sorted(report.taken.items())),
        ("there already", report.already_there),
        ("refused", len(report.refused)),
    ]
    print_table(("WHAT", ">ENTRIES"), counts)
    if report.past_retention:
        remark(f"{report.past_retention:,} ended more than 30 days ago: the next cleanup deletes them")
    if report.refused:
        print()
        print_table(
            (">PLACE", "ASSESSMENT", "REASON"),
            ((one.position, one.assessment_id, one.reason) for one in report.refused[:MAX_REFUSED_SHOWN]),
        )
        if len(report.refused) > MAX_REFUSED_SHOWN:
            remark(f"and {len(report.refused) - MAX_REFUSED_SHOWN:,} more: --refused FILE writes them all")
