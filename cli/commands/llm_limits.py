"""``gristmill llm limits``: how much may be called, what is used of it, when there is room."""

from typing import Annotated, Any
from uuid import UUID

import typer

from cli.connection import actor
from cli.llm_routing import with_routing
from cli.llm_values import Model, Provider, Stage
from cli.output import Json, print_json, print_table, remark
from cli.session import in_session
from cli.values import format_time
from workers.llm.operate import limits
from workers.llm.operate.limits import DAY, MINUTE, LimitView

app = typer.Typer(help="List limits with what is used of them and when there is room; set, remove.")

Number = Annotated[int | None, typer.Option(metavar="N", min=0)]


@app.callback(invoke_without_command=True)
def list_(context: typer.Context, as_json: Json = False) -> None:
    """List limits with what is used of them and when there is room; set, remove."""
    if context.invoked_subcommand is not None:
        return
    found = in_session(limits.list_limits)
    if as_json:
        print_json(found)
    elif found:
        _print(found)
    else:
        remark("no limits; `gristmill llm limits set` makes one")


@app.command("set")
def set_(
    *,
    provider: Provider = None,
    model: Model = None,
    stage: Stage = None,
    owner: Annotated[UUID | None, typer.Option(metavar="ID", help="Only calls for this tenant.")] = None,
    each_owner: Annotated[bool, typer.Option("--each-owner", help="Each tenant may as much.")] = False,
    requests_per_minute: Number = None,
    tokens_per_minute: Number = None,
    input_tokens_per_minute: Number = None,
    output_tokens_per_minute: Number = None,
    requested_tokens_per_minute: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="For providers that count max_tokens, whatever the answer uses."),
    ] = None,
    requests_per_day: Number = None,
    tokens_per_day: Number = None,
    concurrency: Annotated[int | None, typer.Option(metavar="N", min=0, help="Calls under way at once.")] = None,
    as_json: Json = False,
) -> None:
    """Set limits on the calls that match what is given; they hold at once, for all processes. 0 allows nothing."""
    whose = {"provider": provider, "model": model, "stage": stage, "owner_id": owner, "per_owner": each_owner}
    said: list[tuple[str, int | None, int | None]] = [
        ("requests", MINUTE, requests_per_minute),
        ("tokens", MINUTE, tokens_per_minute),
        ("input_tokens", MINUTE, input_tokens_per_minute),
        ("output_tokens", MINUTE, output_tokens_per_minute),
        ("requested_tokens", MINUTE, requested_tokens_per_minute),
        ("requests", DAY, requests_per_day),
        ("tokens", DAY, tokens_per_day),
        ("concurrency", None, concurrency),
    ]
    given: list[dict[str, Any]] = [
        whose | {"measure": measure, "window_seconds": window, "at_most": most}
        for measure, window, most in said
        if most is not None
    ]
    made = with_routing(lambda session, routing: limits.set_limits(session, given, routing, actor=actor()))
    if as_json:
        print_json(made)
        return
    for one in made:
        print(f"{one.id} {one.name}: at most {one.at_most:,}")


@app.command()
def remove(limit: Annotated[UUID, typer.Argument(metavar="LIMIT", help="Its id.")]) -> None:
    """Delete a limit; calls that wait for it go on at once."""
    gone = in_session(lambda session: limits.remove_limit(session, limit, actor=actor()))
    print(f"{gone.name} is no limit any more")


def _print(found: list[LimitView]) -> None:
    print_table(
        ("ID", "LIMIT", ">AT MOST", ">USED", ">UNDER WAY", "ROOM", "SET BY"),
        (
            (one.id, one.name, f"{one.at_most:,}", f"{one.used:,}", f"{one.reserved:,}", _room(one), _set_by(one))
            for one in found
        ),
        keep={"ROOM"},
    )
    for one in found:
        if one.per_owner and one.fullest is not None and one.used:
            remark(f"{one.name}: the figures are those of {one.fullest}, of {one.subjects} who use it")


def _room(one: LimitView) -> str:
    """Return how much there is room for, or when there is again."""
    if not one.is_full:
        return f"{one.at_most - one.used:,}"
    if one.at_most == 0:
        return "never"
    if one.free_at is None:
        return "when a call ends"
    return f"at {format_time(one.free_at)}"


def _set_by(one: LimitView) -> str:
    return f"learned, until {format_time(one.until)}" if one.until else one.set_by
