"""``gristmill windows``: bonus windows, and who reaches which tier in them."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import typer

from cli.connection import actor
from cli.output import Json, print_json, print_table, remark
from cli.session import in_session
from cli.values import format_time, parse_time
from workers.operations import windows

app = typer.Typer(help="Make bonus windows and show who qualifies.", no_args_is_help=True)

WindowId = Annotated[UUID, typer.Argument(metavar="WINDOW", help="Id of the window.")]
Start = Annotated[str, typer.Option(metavar="TIME", help="ISO 8601; without an offset in this machine's zone.")]
End = Annotated[str, typer.Option(metavar="TIME", help="The end of the window; a record at this time does not count.")]
Target = Annotated[int | None, typer.Option(metavar="N", help="0 disables it.")]


@app.command()
def create(
    *,
    name: Annotated[str, typer.Option(help="Display name.")] = "Bonus Window",
    start: Start,
    end: End,
    tasks: Target = 0,
    feedback: Target = 0,
    tasks_tier2: Target = 0,
    feedback_tier2: Target = 0,
    as_json: Json = False,
) -> None:
    """Make a window. To reach a tier, all of its targets must be reached."""
    request = {"name": name, "start": parse_time(start), "end": parse_time(end)}
    targets = {"tasks": tasks, "feedback": feedback, "tasks_tier2": tasks_tier2, "feedback_tier2": feedback_tier2}
    made = in_session(lambda session: windows.create(session, request | targets, actor=actor()))
    print_json(made.by_column()) if as_json else print(made.id)


@app.command()
def update(
    window: WindowId,
    *,
    name: Annotated[str | None, typer.Option(help="Display name.")] = None,
    start: Annotated[str | None, typer.Option(metavar="TIME")] = None,
    end: Annotated[str | None, typer.Option(metavar="TIME")] = None,
    tasks: Target = None,
    feedback: Target = None,
    tasks_tier2: Target = None,
    feedback_tier2: Target = None,
    as_json: Json = False,
) -> None:
    """Change the given values of a window."""
    changes: dict[str, Any] = {
        "name": name,
        "start": _time(start),
        "end": _time(end),
        "tasks": tasks,
        "feedback": feedback,
        "tasks_tier2": tasks_tier2,
        "feedback_tier2": feedback_tier2,
    }
    given = {field: value for field, value in changes.items() if value is not None}
    changed = in_session(lambda session: windows.change(session, window, given, actor=actor()))
    print_json(changed.by_column()) if as_json else print(f"{changed.id} is changed")


@app.command("list")
def list_(
    open_: Annotated[
        bool, typer.Option("--open", help="Only windows that are open now, by the clock of the database.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the windows, latest start first."""
    found = in_session(lambda session: windows.list_windows(session, open_only=open_))
    if as_json:
        print_json([window.by_column() for window in found])
    elif found:
        print_table(
            ("WINDOW", "NAME", "START", "END", ">TASKS", ">FEEDBACK", ">TASKS 2", ">FEEDBACK 2"),
            (
                (
                    w.id,
                    w.name,
                    format_time(w.start_time),
                    format_time(w.end_time),
                    w.target_task_count or "–",
                    w.target_feedback_count or "–",
                    w.target_task_count_tier2 or "–",
                    w.target_feedback_count_tier2 or "–",
                )
                for w in found
            ),
            keep={"WINDOW", "START", "END"},
        )
    else:
        remark("no bonus windows match")


@app.command()
def standings(
    window: Annotated[
        UUID | None, typer.Argument(metavar="[WINDOW]", help="Id of the window. Default: all open windows.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show how many records each creator made in a window, and the tier reached, best first."""
    found = in_session(lambda session: windows.standings(session, window))
    if as_json:
        print_json(found)
    elif found:
        print_table(
            ("WINDOW", "CREATOR", "NAME", "EMAIL", ">TASKS", ">FEEDBACK", ">TIER"),
            (
                (s.window_name, s.creator_id, s.creator_name, s.creator_email, s.task_count, s.feedback_count, s.tier)
                for s in found
            ),
            keep={"CREATOR"},
        )
    else:
        remark("no creator has made a record there yet")


@app.command()
def remove(window: WindowId) -> None:
    """Delete a window. Its records stay."""
    in_session(lambda session: windows.remove(session, window, actor=actor()))
    print(f"{window} is removed")


def _time(text: str | None) -> datetime | None:
    return None if text is None else parse_time(text)
