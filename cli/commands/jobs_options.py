"""The filters that several `jobs` commands share."""

from typing import TYPE_CHECKING, Annotated

import typer

from cli.completing import stages
from cli.values import parse_age

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from workers.runtime.store.read import JobFilter

Stage = Annotated[str | None, typer.Option(help="Only this stage.", autocompletion=stages)]
Status = Annotated[
    str | None,
    typer.Option(
        help="Only waiting, running, completed, failed or cancelled ones, or a table's own state; in any case."
    ),
]
Age = Annotated[
    str | None, typer.Option("--older-than", "--age", metavar="AGE", help="Created before: 30s, 10m, 2h, 7d.")
]
Error = Annotated[
    str | None, typer.Option(metavar="TEXT", help="Only where the error contains this text; … stands for anything.")
]


def wanted(
    *,
    stage: str | None = None,
    status: str | None = None,
    older_than: str | None = None,
    error: str | None = None,
    ids: "Sequence[UUID] | None" = None,
) -> "JobFilter":
    """Return the filter that these options mean."""
    from workers.runtime.store.read import JobFilter

    span = parse_age(older_than) if older_than else None
    return JobFilter(stage=stage, status=status, older_than=span, error=error, ids=ids)
