"""``gristmill schedules``: the cron rows that beat fires."""

import asyncio
from typing import Annotated

import typer

from cli.errors import WrongUsageError
from cli.output import Json, print_json, print_table, remark
from cli.values import moment, parse_payload

app = typer.Typer(help="List, add, pause, resume, run and remove schedules.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME")]
CATCH_UP = ("skip", "one", "all")


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List every schedule with its last and next time."""
    from cli.schedule_rows import listed

    rows = asyncio.run(listed())
    if as_json:
        print_json(rows)
        return
    print_table(
        ("NAME", "RUNS", "CRON", "TIME ZONE", "STATE", "LAST", "NEXT"),
        (
            (
                row.name,
                row.stage or f"action {row.action}",
                row.cron,
                row.timezone,
                "enabled" if row.enabled else "paused",
                moment(row.last_scheduled_for) or "–",
                moment(row.next_time) or "–",
            )
            for row in rows
        ),
        keep={"NAME", "LAST", "NEXT"},
    )


@app.command()
def add(
    name: Name,
    *,
    cron: Annotated[str, typer.Option(metavar='"M H D MON DOW"', help="When, in cron's five fields.")],
    stage: Annotated[str | None, typer.Option(help="Stage whose job it enqueues.")] = None,
    payload: Annotated[str, typer.Option(metavar="JSON|@FILE", help="The job's payload.")] = "{}",
    action: Annotated[str | None, typer.Option(help="Maintenance action instead of a stage.")] = None,
    timezone: Annotated[str, typer.Option(help="IANA time zone that CRON is meant in.")] = "UTC",
    catch_up: Annotated[str, typer.Option(help="Times missed while no beat ran: skip them, fire one, or all.")] = "one",
) -> None:
    """Add a schedule: a job of --stage, or a maintenance --action, at each time of --cron."""
    if (stage is None) == (action is None):
        raise WrongUsageError("name either --stage or --action")
    if catch_up not in CATCH_UP:
        raise WrongUsageError(f"catch-up must be one of {', '.join(CATCH_UP)}, got {catch_up!r}")
    values = parse_payload(payload)
    from cli.schedule_rows import NewSchedule, added

    new = NewSchedule(
        name=name, cron=cron, timezone=timezone, stage=stage, payload=values, action=action, catch_up=catch_up
    )
    first = asyncio.run(added(new))
    print(f"{name} is added; it fires next at {moment(first)}")


@app.command()
def pause(name: Name) -> None:
    """Fire NAME no more until it is resumed."""
    from cli.schedule_rows import switched

    asyncio.run(switched(name, enabled=False))
    print(f"{name} is paused")


@app.command()
def resume(name: Name) -> None:
    """Fire NAME again from now on; times that passed while it was paused are not made up."""
    from cli.schedule_rows import switched

    asyncio.run(switched(name, enabled=True))
    print(f"{name} is enabled")


@app.command()
def run(name: Name, as_json: Json = False) -> None:
    """Run NAME now, whatever its times: enqueue its job and print the id, or do its action."""
    from cli.schedule_rows import ran

    done = asyncio.run(ran(name))
    if as_json:
        print_json({"name": name, "job_id": done.job_id, "action": done.action, "rows": done.rows})
    elif done.job_id is not None:
        print(done.job_id)
    else:
        remark(f"{done.action} done, {done.rows} rows")


@app.command()
def remove(name: Name) -> None:
    """Delete NAME with the record of its times. A default one comes back when a beat starts: pause those."""
    from cli.schedule_rows import removed

    asyncio.run(removed(name))
    print(f"{name} is removed")
