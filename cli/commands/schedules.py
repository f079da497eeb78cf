"""``gristmill schedules``: the cron rows that beat fires."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Annotated, Any, TypeVar

import typer

from cli.connection import actor
from cli.output import Json, print_json, print_table, remark
from cli.session import in_database, in_session
from cli.values import moment, parse_payload
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
    str | None, typer.Option(metavar='"M H D MON DOW"', help="When: five fields, minute hour day month weekday.")
]
Stage = Annotated[str | None, typer.Option(help="Stage whose job it enqueues.")]
Payload = Annotated[str | None, typer.Option(metavar="JSON|@FILE", help="The job's payload.")]
Action = Annotated[str | None, typer.Option(help="Maintenance action instead of a stage.")]
Timezone = Annotated[str | None, typer.Option(help="IANA time zone that CRON is meant in. New ones: UTC.")]
CatchUp = Annotated[
    str | None, typer.Option(help="Times missed while no beat ran: skip them, fire one, or all. New ones: one.")
]


def _use(case: Callable[[Transaction, Registry], Awaitable[T]]) -> T:
    """Return what a use-case of schedules returns, in one transaction."""
    registry = discover()
    return in_session(lambda session: case(session, registry))


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List every schedule with its last and next time; below, why one is refused and what clock changes do."""
    rows = _use(operate.list_schedules)
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
                moment(row.last_scheduled_for) or "–",
                moment(row.next_time) or ("refused" if row.refusal else "–"),
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
    """Show NAME with its payload, its newest firings, why it is refused and what clock changes do to it."""
    row, ticks = _use(lambda session, registry: operate.show_schedule(session, registry, name))
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
        "last": moment(row.last_scheduled_for),
        "next": moment(row.next_time),
        "changed": moment(row.changed_at),
    }
    print_table(("FACT", "VALUE"), ((fact, value) for fact, value in facts.items() if value), keep={"FACT"})
    for line in _remarks(row):
        print(printable(line))
    if ticks:
        print()
        print_table(
            ("SCHEDULED FOR", "FIRED AT", "JOB"),
            ((moment(tick.scheduled_for), moment(tick.fired_at), tick.job_id or tick.refusal or "–") for tick in ticks),
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
    given = _given(cron=cron, stage=stage, payload=payload, action=action, timezone=timezone, catch_up=catch_up)
    new = NewSchedule(name=name, **given)
    _say(_use(lambda session, registry: operate.add_schedule(session, registry, new, actor())), "is added")


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
    """Change what is given of NAME. Times that passed before the change do not fire."""
    given = _given(cron=cron, stage=stage, payload=payload, action=action, timezone=timezone, catch_up=catch_up)
    if not given:
        raise Refusal("name at least one thing to change; `gristmill schedules edit -h` lists them")
    _say(_use(lambda session, registry: operate.edit_schedule(session, registry, name, given, actor())), "is changed")


@app.command()
def pause(name: Name) -> None:
    """Fire NAME no more until it is resumed."""
    _use(lambda session, registry: operate.switch_schedule(session, registry, name, actor(), enabled=False))
    print(printable(f"{name} is paused"))


@app.command()
def resume(name: Name) -> None:
    """Fire NAME again from now on; times that passed while it was paused are not made up."""
    _say(
        _use(lambda session, registry: operate.switch_schedule(session, registry, name, actor(), enabled=True)),
        "is enabled",
    )


@app.command()
def run(name: Name, as_json: Json = False) -> None:
    """Run NAME now, whatever its times: enqueue its job and print the id, or do its action and tell what it did."""
    done = _use(lambda session, registry: operate.enqueue_now(session, registry, name, actor()))
    changed = _act(done) if isinstance(done, str) else None
    if as_json:
        action, job_id = (done, None) if isinstance(done, str) else (None, done)
        rows = None if changed is None else sum(changed.values())
        print_json({"name": name, "job_id": job_id, "action": action, "rows": rows, "changed": changed})
    elif changed is None:
        print(done)
    else:
        some = ", ".join(f"{count} {what}" for what, count in changed.items() if count)
        remark(f"{done} done: {some or f'nothing to do in {len(changed)} tables'}")


@app.command()
def remove(name: Name) -> None:
    """Delete NAME with the record of its times. A default one comes back when a beat starts: pause those."""
    _use(lambda session, _: operate.remove_schedule(session, name, actor()))
    print(printable(f"{name} is removed"))


def _given(**options: str | None) -> dict[str, Any]:
    """Return the options that the person gave, the payload read."""
    given: dict[str, Any] = {option: value for option, value in options.items() if value is not None}
    if "payload" in given:
        given["payload"] = parse_payload(given["payload"])
    return given


def _say(row: ScheduleView, what: str) -> None:
    fires = f"; it fires next at {moment(row.next_time)}" if row.next_time else ""
    print(printable(f"{row.name} {what}{fires}"))
    for line in _remarks(row):
        print(printable(line))


def _remarks(row: ScheduleView) -> list[str]:
    since = f" (at its last time, {moment(row.refused_at)})" if row.refused_at else ""
    return ([f"refused: {row.refusal}{since}"] if row.refusal else []) + row.clock_changes


def _act(action: str) -> Mapping[str, int]:
    """Do a maintenance action in this process and return what it changed."""
    settings = load()
    configure(settings.log_format, "WARNING")  # the caller tells what was done
    retention = timedelta(days=settings.transitions_retention_days)
    return in_database(lambda database: operate.act_now(database, action, transitions_retention=retention))
