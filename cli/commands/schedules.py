"""``gristmill schedules``: the schedules that beat fires."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Annotated, Any, TypeVar

import typer

from cli.connection import actor
from cli.output import Json, one_line, print_json, print_table, remark
from cli.session import in_database, in_session
from cli.values import format_time, parse_payload
from config.logging import configure
from config.settings import load
from workers.runtime.database import Transaction
from workers.runtime.handler.registry import Registry, discover
from workers.runtime.operate import schedules as operate
from workers.runtime.operate.schedules import NewSchedule, ScheduleView
from workers.runtime.refusals import Refusal, printable

app = typer.Typer(help="List, show, add, edit, pause, resume, run and remove schedules.", no_args_is_help=True)

T = TypeVar("T")
Name = Annotated[str, typer.Argument(metavar="NAME")]
Cron = Annotated[
    str | None, typer.Option(metavar='"M H D MON DOW"', help="Five fields: minute, hour, day, month, weekday.")
]
Stage = Annotated[str | None, typer.Option(help="Stage of the job that it enqueues.")]
Payload = Annotated[str | None, typer.Option(metavar="JSON|@FILE", help="The job's payload.")]
Action = Annotated[str | None, typer.Option(help="Maintenance action, instead of a stage.")]
Timezone = Annotated[str | None, typer.Option(help="IANA time zone of CRON. Default for a new schedule: UTC.")]
CatchUp = Annotated[
    str | None,
    typer.Option(
        help="If times passed while no beat ran: skip them, fire one, or fire all. Default for a new schedule: one."
    ),
]


def _in_session(function: Callable[[Transaction, Registry], Awaitable[T]]) -> T:
    """Run ``function`` with the registry in one transaction; return its result."""
    registry = discover()
    return in_session(lambda session: function(session, registry))


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List every schedule with its last and next time; below, the refused ones and the effects of clock changes."""
    rows = _in_session(operate.list_schedules)
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
                row.state,
                format_time(row.last_scheduled_for) or "–",
                format_time(row.next_time) or ("refused" if row.refusal else "–"),
            )
            for row in rows
        ),
        keep={"NAME", "STATE", "LAST", "NEXT"},
    )
    for row in rows:
        for line in _remarks(row):
            print(printable(f"{row.name}: {line}"))


@app.command()
def show(name: Name, as_json: Json = False) -> None:
    """Show NAME with its payload, its last firings, why it is refused, and the effects of clock changes."""
    row, ticks = _in_session(lambda session, registry: operate.show_schedule(session, registry, name))
    if as_json:
        print_json({"schedule": row, "ticks": ticks})
        return
    facts = {
        "name": row.name,
        "state": row.state,
        "runs": row.stage or f"action {row.action}",
        "payload": row.payload if row.stage else None,
        "cron": row.cron,
        "time zone": row.timezone,
        "catch-up": row.catch_up,
        "last": format_time(row.last_scheduled_for),
        "next": format_time(row.next_time),
        "changed": format_time(row.changed_at),
    }
    print_table(("FACT", "VALUE"), ((fact, one_line(value)) for fact, value in facts.items() if value), keep={"FACT"})
    for line in _remarks(row):
        print(printable(line))
    if ticks:
        print()
        print_table(
            ("SCHEDULED FOR", "FIRED AT", "JOB"),
            (
                (format_time(tick.scheduled_for), format_time(tick.fired_at), tick.job_id or tick.refusal or "–")
                for tick in ticks
            ),
            keep={"SCHEDULED FOR", "FIRED AT"},
        )


@app.command()
def add(
    name: Name,
    *,
    cron: Cron = None,
    stage: Stage = None,
    payload: Payload = None,
    action: Action = None,
    timezone: Timezone = None,
    catch_up: CatchUp = None,
) -> None:
    """Add a schedule: a job of --stage, or a maintenance --action, at each time of --cron."""
    if cron is None:
        raise Refusal("a schedule needs --cron")
    given = _given_options(cron=cron, stage=stage, payload=payload, action=action, timezone=timezone, catch_up=catch_up)
    new = NewSchedule(name=name, **given)
    _print_changed(
        _in_session(lambda session, registry: operate.add_schedule(session, registry, new, actor())), "is added"
    )


@app.command()
def edit(
    name: Name,
    *,
    cron: Cron = None,
    stage: Stage = None,
    payload: Payload = None,
    action: Action = None,
    timezone: Timezone = None,
    catch_up: CatchUp = None,
) -> None:
    """Change the given values of NAME. Times before the change do not fire."""
    given = _given_options(cron=cron, stage=stage, payload=payload, action=action, timezone=timezone, catch_up=catch_up)
    if not given:
        raise Refusal("give at least one value to change; `gristmill schedules edit -h` lists them")
    _print_changed(
        _in_session(lambda session, registry: operate.edit_schedule(session, registry, name, given, actor())),
        "is changed",
    )


@app.command()
def pause(name: Name) -> None:
    """Do not fire NAME until it is resumed."""
    _in_session(lambda session, registry: operate.switch_schedule(session, registry, name, actor(), enabled=False))
    print(printable(f"{name} is paused"))


@app.command()
def resume(name: Name) -> None:
    """Fire NAME again from now on. Times that passed during the pause do not fire."""
    _print_changed(
        _in_session(lambda session, registry: operate.switch_schedule(session, registry, name, actor(), enabled=True)),
        "is enabled",
    )


@app.command()
def run(name: Name, as_json: Json = False) -> None:
    """Run NAME now: enqueue its job and print the id, or perform its action and show what it changed."""
    result = _in_session(lambda session, registry: operate.enqueue_now(session, registry, name, actor()))
    changed = _perform(result) if isinstance(result, str) else None
    if as_json:
        action, job_id = (result, None) if isinstance(result, str) else (None, result)
        rows = None if changed is None else sum(changed.values())
        print_json({"name": name, "job_id": job_id, "action": action, "rows": rows, "changed": changed})
    elif changed is None:
        print(result)
    else:
        counts = ", ".join(f"{count} {table}" for table, count in changed.items() if count)
        remark(f"{result} done: {counts or f'nothing to do in {len(changed)} tables'}")


@app.command()
def remove(name: Name) -> None:
    """Delete NAME with the history of its times. A default schedule returns when a beat starts: pause it instead."""
    _in_session(lambda session, _: operate.remove_schedule(session, name, actor()))
    print(printable(f"{name} is removed"))


def _given_options(**options: str | None) -> dict[str, Any]:
    """Return the options that the person gave, with the payload as an object."""
    given: dict[str, Any] = {option: value for option, value in options.items() if value is not None}
    if "payload" in given:
        given["payload"] = parse_payload(given["payload"])
    return given


def _print_changed(row: ScheduleView, change: str) -> None:
    next_time = f"; it fires next at {format_time(row.next_time)}" if row.next_time else ""
    print(printable(f"{row.name} {change}{next_time}"))
    for line in _remarks(row):
        print(printable(line))


def _remarks(row: ScheduleView) -> list[str]:
    since = f" (at its last time, {format_time(row.refused_at)})" if row.refused_at else ""
    return ([f"refused: {row.refusal}{since}"] if row.refusal else []) + row.clock_changes


def _perform(action: str) -> Mapping[str, int]:
    """Perform a maintenance action in this process; return the number of changed rows by table."""
    settings = load()
    configure(settings.log_format, "WARNING")  # the caller prints the result
    retention = timedelta(days=settings.transitions_retention_days)
    return in_database(lambda database: operate.act_now(database, action, transitions_retention=retention))
