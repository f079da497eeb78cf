"""``gristmill up``, ``down`` and ``status``: the system of one data folder."""

import shlex
import sys
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated

import typer

from cli.output import Json, print_json, print_table, remark
from cli.program import DATA_DIR, command_line, program_path
from cli.running_system import absolute_path, find_system, no_system_line
from config.redaction import MASK, redact_text
from config.settings import Settings, load
from local.api_key import DevelopmentKey, read_development_key
from local.supervision_status import read_status, stop_supervisor
from local.system import flower_port_for, gateway_port_for, run_system, start_detached
from workers.runtime.refusals import Failed

_URLS = ("database_url", "redis_url", "gateway_url", "flower_url")
_FOR_SECRETS = f"`{command_line('status --json --show-secrets')}` has it"


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
        before = read_development_key(settings.data_dir)
        status = start_detached(settings, ["--workers", str(workers), *ports])
        _announce(status.urls)
        if (key := read_development_key(settings.data_dir)) and key != before:
            print(f"  API key   {key}  (not shown again; {_FOR_SECRETS})")
        print(f"stop it with `{command_line('down')}`, read its logs with `{command_line('logs -f')}`")
        return 0
    _refuse_second_start(settings)
    remark("starting")
    code = run_system(
        settings,
        workers=workers,
        port=port,
        flower_port=flower_port,
        report=remark,
        announce=_announce_attached,
        announce_key=_announce_key,
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
    show_secrets: Annotated[
        bool, typer.Option("--show-secrets", help="Show passwords in URLs, and the API key.")
    ] = False,
) -> int:
    """Show which roles run here, and the URLs. Exit code 1 if nothing runs."""
    settings = load()
    running = find_system(settings)
    if running is None:
        if as_json:
            nothing = dict.fromkeys((*_URLS, "api_key"))
            print_json({"state": "stopped", "roles": [], "data_dir": str(settings.data_dir), **nothing})
            return 1
        raise Failed(no_system_line(settings))
    data_dir, found = running
    urls = {name: found.urls.get(name) for name in _URLS}
    key = read_development_key(data_dir)
    if not show_secrets:
        urls = {name: redact_text(url) if url else None for name, url in urls.items()}
        key = key and MASK
    if as_json:
        own = {"state": found.state, "pid": found.pid, "started_at": found.started_at, "data_dir": str(data_dir)}
        print_json({**own, "roles": found.roles, **urls, "api_key": key})
        return 0
    print(f"{found.state} since {found.started_at.astimezone():%Y-%m-%d %H:%M:%S} (process {found.pid})\n")
    print_table(
        ("ROLE", "STATE", ">PID", ">RESTARTS"),
        ((role.name, role.state, role.pid, role.restarts) for role in found.roles),
    )
    print()
    for name, value in (*urls.items(), ("api_key", key)):
        print(f"{name:<13} {value or '–'}")
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


def _announce_key(key: DevelopmentKey) -> None:
    """Print a new key once, and only to a person: the output of a service goes into a log, which others may read."""
    if not key.is_new:
        return
    shown = f"{key.secret}  (not shown again; {_FOR_SECRETS})" if sys.stdout.isatty() else f"in {key.path}"
    print(f"  API key   {shown}", flush=True)
