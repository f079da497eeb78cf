"""``gristmill up``, ``down`` and ``status``: the system of one data folder."""

import shlex
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated

import typer

from cli.output import Json, print_json, print_table, remark
from cli.program import DATA_DIR, command_line, program_path
from cli.running_system import absolute_path, find_system, no_system_line
from config.redaction import redact_text
from config.settings import Settings, load
from local.supervision_status import read_status, stop_supervisor
from local.system import flower_port_for, gateway_port_for, run_system, start_detached
from workers.runtime.refusals import Failed

_URLS = ("database_url", "redis_url", "gateway_url", "flower_url")


def up(
    workers: Annotated[int, typer.Option(min=1, max=64, help="Number of worker processes.")] = 2,
    port: Annotated[int | None, typer.Option(min=1, max=65_535, help="Port for the HTTP gateway.")] = None,
    flower_port: Annotated[int | None, typer.Option(min=1, max=65_535, help="Port for Flower.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Run in the background; `gristmill down` stops it.")] = False,
) -> int:
    """Start the whole system here: servers if none are configured, schema, and every role.

    Ctrl-C drains the workers. A second Ctrl-C stops running jobs at once; they run again later.
    """
    settings = load()
    if detach:
        _refuse_second_start(settings)
        ports = ["--port", str(gateway_port_for(settings, port))]
        ports += ["--flower-port", str(flower_port_for(settings, flower_port))]
        status = start_detached(settings, ["--workers", str(workers), *ports])
        _announce(status.urls)
        print(f"stop it with `{command_line('down')}`, read its logs with `{command_line('logs -f')}`")
        return 0
    _refuse_second_start(settings)
    remark("starting")
    code = run_system(
        settings, workers=workers, port=port, flower_port=flower_port, report=remark, announce=_announce_attached
    )
    remark("stopped")
    return code


def down() -> None:
    """Stop the system here: drain the workers, then stop the rest. Data stays."""
    settings = load()
    # Two drains (the grace + 5 s, and 5 s), then the clean stop of the servers.
    timeout = timedelta(seconds=settings.worker.grace_seconds + 40)
    stopped = stop_supervisor(settings.data_dir, timeout=timeout)
    if stopped:
        print("stopped")
    elif other := find_system(settings, announce=False):  # to stop it, a person must name it
        command = f"{DATA_DIR}={shlex.quote(absolute_path(other.data_dir))} {program_path()} down"
        raise Failed(f"nothing runs in {absolute_path(settings.data_dir)}; to stop the running system: `{command}`")
    else:
        print(f"nothing runs in {absolute_path(settings.data_dir)}")


def status(
    as_json: Json = False,
    show_secrets: Annotated[bool, typer.Option("--show-secrets", help="Show passwords in URLs.")] = False,
) -> int:
    """Show which roles run here, and the URLs. Exit code 1 if nothing runs."""
    settings = load()
    running = find_system(settings)
    if running is None:
        if as_json:
            print_json({"state": "stopped", "roles": [], "data_dir": str(settings.data_dir), **dict.fromkeys(_URLS)})
            return 1
        raise Failed(no_system_line(settings))
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


def _refuse_second_start(settings: Settings) -> None:
    running = read_status(settings.data_dir)
    if running is not None:
        raise Failed(f"the system already runs here as process {running.pid}: see `{command_line('status')}`")


def _announce(urls: Mapping[str, str]) -> None:
    print("running")
    print(f"  Gateway   {urls['gateway_url']} (its interface: {urls['gateway_url']}/docs)")
    print(f"  Flower    {urls['flower_url']}")
    print(f"  Postgres  {redact_text(urls['database_url'])}")
    print(f"  Redis     {redact_text(urls['redis_url'])}", flush=True)


def _announce_attached(urls: Mapping[str, str]) -> None:
    _announce(urls)
    remark(f"passwords: `{command_line('status --json --show-secrets')}`; Ctrl-C drains and stops")
