"""``gristmill assessments stats``: counts, durations, failures by hour and reason, and a plot."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from cli.assessment_plot import draw_svg
from cli.output import Json, print_json, print_table, remark
from cli.session import in_session
from cli.values import format_duration, format_time, parse_age
from workers.assessment.store.reports import Quantiles, Statistics, statistics


def stats(
    *,
    since: Annotated[
        str | None, typer.Option(metavar="AGE", help="Only this last span of time: 30m, 24h, 7d, …")
    ] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.svg", help="Draw how many ended in each hour.")] = None,
    as_json: Json = False,
) -> None:
    """Count assessments by state, their durations by type and their failures by hour and reason."""
    span = parse_age(since) if since else None
    found = in_session(lambda session: statistics(session, since=span))
    if plot is not None:
        plot.write_text(draw_svg(found), encoding="utf-8")
    if as_json:
        print_json(found)
    else:
        _print(found)
    if plot is not None:
        remark(f"the plot is in {plot}")


def _print(found: Statistics) -> None:
    print_table(
        ("STATE", ">COUNT", ">OLDEST WAIT"),
        ((one.state, one.count, format_duration(one.oldest)) for one in found.states),
    )
    if found.durations:
        print()
        print_table(
            ("TYPE", ">COMPLETED", ">RUN P50", ">RUN P95", ">TOTAL P50", ">TOTAL P95"),
            ((d.assessment_type, d.count, *_spans(d.processing), *_spans(d.total)) for d in found.durations),
        )
    if found.failures:
        print()
        print_table(
            ("HOUR", ">FAILED", "REASON"),
            ((format_time(one.hour), one.count, one.reason) for one in found.failures),
            keep={"HOUR"},
        )


def _spans(quantiles: Quantiles | None) -> tuple[str, str]:
    if quantiles is None:
        return "–", "–"
    return format_duration(timedelta(seconds=quantiles.p50)), format_duration(timedelta(seconds=quantiles.p95))
