"""``gristmill up``, ``down`` and ``status``: the whole system of one data folder."""

import shlex
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated

import typer

from cli.output import Json, print_json, print_table, remark
from cli.typed import DATA_DIR, program, typed
from cli.whereabouts import find, nothing_runs, shown
from config.redaction import redact_text
from config.settings import Settings, load
from local.supervision_status import read_status, stop_supervisor
from local.system import flower_port_for, run_system, start_detached
from workers.runtime.refusals import Failed

_URLS = ("database_url", "redis_url", "flower_url")


def up(
    workers: Annotated[int, typer.Option(min=1, max=64, help="Worker processes.")] = 2,
    flower_port: Annotated[int | None, typer.Option(min=1, max=65_535, help="Port for Flower.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Run in the background; `gristmill down` stops it.")] = False,
) -> int:
    """Start everything here: servers if none are configured, schema, workers, dispatcher, beat, Flower.

    Ctrl-C drains; pressed again, it cuts running jobs short (they run again later).
    """
    settings = load()
    if detach:
        _refuse_second(settings)
        port = flower_port_for(settings, flower_port)
        status = start_detached(settings, ["--workers", str(workers), "--flower-port", str(port)])
        _announce(status.urls)
        print(f"stop it with `{typed('down')}`, read its logs with `{typed('logs -f')}`")
        return 0
    _refuse_second(settings)
    remark("starting")
    code = run_system(settings, workers=workers, flower_port=flower_port, report=remark, announce=_announce_attached)
    remark("stopped")
    return code


def down() -> None:
    """Stop what runs here: drain the workers, then end the rest. Data stays."""
    settings = load()
    # Two drains of grace + 5 s and 5 s, then the servers' own clean stop.
    patience = timedelta(seconds=settings.worker.grace_seconds + 40)
    stopped = stop_supervisor(settings.data_dir, timeout=patience)
    if stopped:
        print("stopped")
    elif other := find(settings, say=False):  # what a person stops, they name
        where = f"{DATA_DIR}={shlex.quote(shown(other.data_dir))} {program()} down"
        raise Failed(f"nothing runs in {shown(settings.data_dir)}; stop the system that does with `{where}`")
    else:
        print(f"nothing runs in {shown(settings.data_dir)}")


def status(
    as_json: Json = False,
    show_secrets: Annotated[bool, typer.Option("--show-secrets", help="Show passwords in URLs.")] = False,
) -> int:
    """Show what runs here and where it answers. Exit code 1 if nothing does."""
    settings = load()
    running = find(settings)
    if running is None:
        if as_json:
            print_json({"state": "stopped", "roles": [], "data_dir": str(settings.data_dir), **dict.fromkeys(_URLS)})
            return 1
        raise Failed(nothing_runs(settings))
    data_dir, found = running
    urls = {name: found.urls.get(name) for name in _URLS}
    if not show_secrets:
        urls = {name: redact_text(url) if url else None for name, url in urls.items()}
    if as_json:
        own = {"state": found.state, "pid": found.pid, "started_at": found.started_at, "data_dir": str(data_dir)}
        print_json({**own, "roles": found.roles, **urls})
        return 0
    print(f"{found.state} since {found.started_at.astimezone():%Y-%m-%d %H:%M:%S} (process {found.pid})\n")
    print_table(
        ("ROLE", "STATE", ">PID", ">RESTARTS"),
        ((role.name, role.state, role.pid, role.restarts) for role in found.roles),
    )
    print()
    for name, url in urls.items():
        print(f"{name:<13} {url or '–'}")
    return 0


def _refuse_second(settings: Settings) -> None:

    running = read_status(settings.data_dir)
    if running is not None:
        raise Failed(f"it already runs here as process {running.pid}: see `{typed('status')}`")


def _announce(urls: Mapping[str, str]) -> None:

    print("running")
    print(f"  Flower    {urls['flower_url']}")
    print(f"  Postgres  {redact_text(urls['database_url'])}")
    print(f"  Redis     {redact_text(urls['redis_url'])}", flush=True)


def _announce_attached(urls: Mapping[str, str]) -> None:
    _announce(urls)
    remark(f"passwords: `{typed('status --json --show-secrets')}`; Ctrl-C drains and stops")
