"""``gristmill assessments metrics``: the measurements of one assessment."""

from typing import Annotated
from uuid import UUID

import typer

from cli.output import Json, print_json, print_table, remark
from cli.session import in_session
from cli.values import format_time
from workers.assessment.store.metrics import list_measurements


def metrics(
    assessment_id: Annotated[str, typer.Argument(metavar="ASSESSMENT")],
    owner: Annotated[
        UUID | None, typer.Option("--owner", metavar="ID", help="Owner. Default: no owner, or the only one.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the measurements of an assessment: times and attempts at each end, and the metrics that services wrote."""
    found = in_session(lambda session: list_measurements(session, assessment_id, owner=owner))
    if as_json:
        print_json(found)
    elif found:
        print_table(
            ("WHEN", "METRIC", ">VALUE"),
            ((format_time(one.timestamp) or "–", one.metric_type, f"{one.metric_value:,}") for one in found),
            keep={"WHEN"},
        )
    else:
        remark(f"assessment {assessment_id!r} has no measurements")
