"""``gristmill llm spend``: what calls used and cost, summed up from the ledger and drawn."""

from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer

from cli.assessment_view import score_bar
from cli.llm_plot import svg
from cli.llm_values import (
    Model,
    Project,
    Provider,
    Since,
    Stage,
    Until,
    dollars,
    parse_list,
    parse_since,
    project_id,
    project_names,
)
from cli.output import Json, print_json, print_table, remark
from cli.session import in_session
from cli.values import format_count
from workers.llm.ledger import spend as ledger
from workers.llm.ledger.spend import DIMENSIONS, Spend, SpendFilter, SpendRow

_CELLS = 16


def spend(
    *,
    by: Annotated[
        str, typer.Option(metavar="WORD,…", help=f"What to sum up by, of {', '.join(DIMENSIONS)}.")
    ] = "model",
    since: Since = None,
    until: Until = None,
    provider: Provider = None,
    model: Model = None,
    stage: Stage = None,
    project: Project = None,
    tenant: Annotated[UUID | None, typer.Option(metavar="ID", help="Only calls for this owner.")] = None,
    zone: Annotated[str, typer.Option(help="IANA time zone of days, weeks and months.")] = "UTC",
    plot: Annotated[Path | None, typer.Option(metavar="FILE.svg", help="Draw it by day, each model a colour.")] = None,
    as_json: Json = False,
) -> None:
    """Sum up what calls used and cost: by model, stage, day, project and more."""
    words: Any = parse_list("by", by, DIMENSIONS)
    these = SpendFilter(
        since=parse_since(since),
        until=parse_since(until),
        provider=provider,
        model=model,
        stage=stage,
        tenant=tenant,
        project=project_id(project),
    )
    found = in_session(lambda session: ledger.spend(session, words, these, zone=zone))
    if plot is not None:
        days = in_session(lambda session: ledger.spend(session, ["day", "model"], these, zone=zone))
        plot.write_text(svg(days, zone), encoding="utf-8")
    if as_json:
        print_json(found)
    elif found.total.calls:
        _print(words, found)
    else:
        remark("no calls match")
    if plot is not None:
        remark(f"drawn into {plot}")


def _print(words: list[Any], found: Spend) -> None:
    named = {str(id_): name for id_, name in project_names().items()} if "project" in words else {}
    measure = _measure(found)
    most = max((measure(row) for row in found.rows), default=0)
    print_table(
        (
            *(f"{word.upper()}" for word in words),
            ">CALLS",
            ">CACHED",
            ">FAILED",
            ">LOST",
            ">UNPRICED",
            ">INPUT",
            ">OUTPUT",
            ">COST",
            ">UNDER WAY",
            "",
        ),
        (
            (
                *(_key(word, row.by[word], named) for word in words),
                *_sums(row),
                score_bar(float(measure(row) / most), _CELLS) if most else "",
            )
            for row in found.rows
        ),
        keep={*(word.upper() for word in words), ""},
        optional={"CACHED", "FAILED", "LOST", "UNPRICED", "UNDER WAY"},
    )
    total = found.total
    told = [f"total {dollars(total.usd)}", format_count(total.calls, "call"), f"{total.input_tokens:,} tokens in"]
    told.append(f"{total.output_tokens:,} out")
    if total.reserved_usd:
        told.append(f"{dollars(total.reserved_usd)} reserved by {format_count(total.under_way, 'call')} under way")
    if total.orphaned_usd:
        told.append(f"{dollars(total.orphaned_usd)} of it estimated, for answers that were lost")
    print("; ".join(told))
    if total.unpriced:
        unknown = format_count(total.unpriced, "call")
        remark(f"{unknown} with an unknown price are in no amount; `gristmill llm prices` shows which")
    if found.left_out:
        remark(f"{found.left_out:,} more rows; narrow it down with --since, --stage or another --by")


def _sums(row: SpendRow) -> tuple[object, ...]:
    return (
        f"{row.calls:,}",
        f"{row.cached:,}",
        f"{row.failed:,}",
        f"{row.orphaned:,}",
        f"{row.unpriced:,}",
        f"{row.input_tokens:,}",
        f"{row.output_tokens:,}",
        dollars(row.usd) if row.usd or not row.unpriced else "unknown",
        dollars(row.reserved_usd) if row.reserved_usd else "–",
    )


def _measure(found: Spend) -> Any:
    """Return what the bars show: money, or tokens where nothing costs any."""
    if found.total.usd:
        return lambda row: row.usd
    return lambda row: Decimal(row.input_tokens + row.output_tokens)


def _key(word: str, value: Any, named: dict[str, str]) -> str:
    if value is None:
        return "–"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}" if word == "hour" else f"{value:%Y-%m-%d}"
    return named.get(str(value), str(value)) if word == "project" else str(value)
