"""The whole system on one machine: servers if none are configured, the schema, and one process per role."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from local.data_dir import LOGS, last_line, make_data_dir, open_log
from local.embedded import EmbeddedServers
from local.embedded.ports import choose_port, is_free
from local.processes import describe_exit
from local.supervision import Role, Supervisor
from local.supervision_status import SupervisorStatus, read_status
from workers.runtime.refusals import Failed, Refusal

if TYPE_CHECKING:
    from config.settings import FlowerSettings, GatewaySettings, Settings
    from local.api_key import DevelopmentKey

MAX_START_SECONDS = 60
_POLL_SECONDS = 0.1
REDIS_TIMEOUT_SECONDS = 5.0
# -P: the working folder may contain a package with the name of one of ours.
COMMAND = (sys.executable, "-P", "-m", "cli.main")


def run_system(
    settings: "Settings",
    *,
    workers: int,
    port: int | None,
    flower_port: int | None,
    report: Callable[[str], None],
    announce: Callable[[Mapping[str, str]], None],
    announce_key: Callable[["DevelopmentKey"], None],
) -> int:
    """Run everything until a signal, then drain; return the exit code.

    ``report`` gets a line per event that an operator should see; ``announce`` gets the URLs once all roles are
    started, and ``announce_key`` the development key. Servers are stopped after the roles that use them.
    """
    from workers.runtime.handler.registry import discover

    discover()  # report a broken handler here once, not in each role at every restart
    grace = timedelta(seconds=settings.worker.grace_seconds)
    with Supervisor(settings.data_dir, grace=grace, report=report) as supervisor, ExitStack() as ends:
        servers = _servers(settings)
        if servers:
            ends.callback(servers.stop)
        ends.callback(supervisor.stop)
        urls = _start_servers(settings, servers)
        ports = Ports(gateway_port_for(settings, port), flower_port_for(settings, flower_port))
        for name, wanted, found in (
            ("the gateway", port or settings.gateway.port, ports.gateway),
            ("Flower", flower_port or settings.flower.port, ports.flower),
        ):
            if found != wanted:
                report(f"port {wanted} is taken by another process: {name} answers on {found} instead")
        logins: Mapping[str, str] = {}
        key: DevelopmentKey | None = None
        if not supervisor.stopping:
            from migrations.upgrade import keep_history, move

            own, *_ = move(urls["database_url"])
            if own.after.current == own.after.head:
                keep_history(urls["database_url"], settings.transitions_retention_days)
                key = _development_key(settings, urls["database_url"], report)
            logins = _logins(settings, urls["database_url"], report)
        if supervisor.stopping:
            return 0
        urls["gateway_url"] = f"http://{_browser_host(settings.gateway.address)}:{ports.gateway}"
        urls["flower_url"] = f"http://{_browser_host(settings.flower.address)}:{ports.flower}"
        roles = build_roles(urls, logins=logins, workers=workers, ports=ports, more=_secret_keys(settings))
        supervisor.start(roles, urls=urls)
        announce(urls)
        if key:
            announce_key(key)
        return supervisor.run(servers)


class Ports(NamedTuple):
    """The ports of the roles that listen."""

    gateway: int
    flower: int


def build_roles(
    urls: Mapping[str, str],
    *,
    workers: int,
    ports: Ports,
    logins: Mapping[str, str] | None = None,
    more: Mapping[str, str] | None = None,
) -> list[Role]:
    """Return the roles of one machine. They get this process's environment, ``more``, and the URLs of the servers.

    ``logins`` are the URLs of Postgres by kind of process; a kind without one uses the URL in ``urls``. The gateway
    stops together with the workers: it needs as long for its running requests.
    """
    names = [*(f"worker-{number}" for number in range(1, workers + 1)), "dispatcher", "beat", "gateway", "flower"]
    return [
        Role(
            name=name,
            argv=[*COMMAND, name.partition("-")[0]],
            env={**_environment(name.partition("-")[0], urls, logins or {}, ports), **(more or {})},
            stop_first=name.startswith(("worker-", "gateway")),
        )
        for name in names
    ]


def _environment(role: str, urls: Mapping[str, str], logins: Mapping[str, str], ports: Ports) -> dict[str, str]:
    """Return the environment of one role. Flower uses only Redis, so it gets the Postgres login with few rights."""
    kind = {"beat": "dispatcher", "flower": "service"}.get(role, role)
    return {
        **os.environ,
        "DATABASE_URL": logins.get(kind, urls["database_url"]),
        "REDIS_URL": urls["redis_url"],
        "GRISTMILL_GATEWAY__PORT": str(ports.gateway),
        "GRISTMILL_FLOWER__PORT": str(ports.flower),
    }


def gateway_port_for(settings: "Settings", asked: int | None) -> int:
    """Return the gateway's port: the requested one (a Refusal if it is taken), else 8000 or another free one."""
    return _port_for(settings.gateway, asked, name="the gateway's", option="--port")


def flower_port_for(settings: "Settings", asked: int | None) -> int:
    """Return Flower's port: the requested one (a Refusal if it is taken), else 5555 or another free one."""
    return _port_for(settings.flower, asked, name="Flower's", option="--flower-port")


def _port_for(settings: "GatewaySettings | FlowerSettings", asked: int | None, *, name: str, option: str) -> int:
    explicit = asked is not None or "port" in settings.model_fields_set
    port = asked or settings.port
    if is_free(port):
        return port
    if explicit:
        raise Refusal(f"{name} port {port} is taken by another process: name a free one with {option}")
    return choose_port()


def start_detached(settings: "Settings", arguments: Sequence[str]) -> SupervisorStatus:
    """Start ``gristmill up`` with ``arguments`` in its own session; return its status once its roles run.

    If it ends before, raises Failed with its last line.
    """
    make_data_dir(settings.data_dir)
    logs = settings.data_dir.resolve() / LOGS
    with open_log(logs, "up") as log:
        beginning = os.fstat(log.fileno()).st_size
        process = subprocess.Popen(
            [*COMMAND, "up", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return await_running(settings.data_dir, process, log=logs / "up.log", beginning=beginning)


def await_running(data_dir: Path, process: "subprocess.Popen[bytes]", *, log: Path, beginning: int) -> SupervisorStatus:
    """Return the status of the supervisor ``process`` once its roles run. Its output is ``log`` from ``beginning``."""
    deadline = time.monotonic() + MAX_START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Failed(last_line(log, beginning) or f"`gristmill up` {describe_exit(process.returncode)}")
        status = read_status(data_dir)
        if status and status.pid == process.pid and status.state == "running":
            return status
        time.sleep(_POLL_SECONDS)
    process.terminate()
    raise Failed(f"the system did not start within {MAX_START_SECONDS} s; its log is {log}")


def _servers(settings: "Settings") -> EmbeddedServers | None:
    """Return the servers to embed, or None if both are configured."""
    postgres, valkey = settings.database_url is None, settings.redis_url is None
    return EmbeddedServers(settings.data_dir, postgres=postgres, valkey=valkey) if postgres or valkey else None


def _logins(settings: "Settings", database_url: str, report: Callable[[str], None]) -> dict[str, str]:
    """Return the URLs of the roles' own logins by kind.

    On the embedded server they are made here. On another server only those that `gristmill migrate --roles` made are
    used: if two machines made passwords for one server, each would lock out the other.
    """
    from local.logins import FOLDER, known_urls, make_logins

    folder = settings.data_dir / FOLDER
    if settings.database_url is None:
        made = make_logins(database_url, folder, may_have_moved=True)
        for login in made:
            if login.problem:
                report(f"{login.problem}; the {login.kind} uses the owner's login: `gristmill doctor` says more")
        return {login.kind: login.url for login in made if not login.problem}
    known = known_urls(database_url, folder)
    if not known:
        report("every role uses the login of DATABASE_URL; `gristmill migrate --roles` makes one for each")
    return known


def _secret_keys(settings: "Settings") -> dict[str, str]:
    """Return the variable with the keys of stored secrets, if no setting has them and the servers are our own."""
    from local.secret_keys import VARIABLE, make_secret_keys

    if settings.secret_keys is not None or settings.database_url is not None:
        return {}
    return {VARIABLE: make_secret_keys(settings.data_dir)}


def _development_key(settings: "Settings", database_url: str, report: Callable[[str], None]) -> "DevelopmentKey | None":
    """Return the API key of the data folder; None, with a reason in ``report``, if this login may not make one."""
    import psycopg

    from local.api_key import make_development_key
    from workers.runtime.connections import refusal_of

    try:
        return make_development_key(database_url, settings.data_dir, is_embedded=settings.database_url is None)
    except (Refusal, psycopg.Error) as error:
        reason = error if isinstance(error, Refusal) else refusal_of(error)
        report(f"no development key for the gateway: {reason}; an operator makes one with `gristmill keys create`")
        return None


def _start_servers(settings: "Settings", servers: EmbeddedServers | None) -> dict[str, str]:
    urls = {
        name: value.get_secret_value()
        for name in ("database_url", "redis_url")
        if (value := getattr(settings, name)) is not None
    }
    if "redis_url" in urls:
        check_redis(urls["redis_url"])
    if servers:
        started = servers.start()
        own = {"database_url": started.database_url, "redis_url": started.redis_url}
        urls |= {name: url for name, url in own.items() if url}
    return urls


def _browser_host(address: str) -> str:
    """Return the host under which a browser on this machine reaches a server that listens on ``address``."""
    if address in {"", "0.0.0.0", "::"}:  # noqa: S104 - compared, not bound
        return "127.0.0.1"
    return f"[{address}]" if ":" in address else address


def check_redis(url: str) -> None:
    """Raise redis' own error if no server answers at ``url``. Otherwise every role would wait without a message."""
    from redis import Redis

    seconds = REDIS_TIMEOUT_SECONDS
    with Redis.from_url(url, socket_connect_timeout=seconds, socket_timeout=seconds) as client:
        client.ping()
