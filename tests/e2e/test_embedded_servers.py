"""The embedded servers with real processes: crashes, taken ports and second starts."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from local.embedded import EmbeddedError, EmbeddedServers, embedded_servers, throwaway_servers
from local.embedded.home import SHARED_FOLDER
from tests.support.paths import ROOT

REPOSITORY = ROOT
AS_ROOT = os.geteuid() == 0


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    """Poll ``condition`` until it holds; return whether it did in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def ask(database_url: str, statement: str) -> object:
    """Return the first value of ``statement``'s answer, if it has one."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        row = cursor.fetchone() if cursor.description else None
    return row[0] if row else None


def valkey(redis_url: str) -> redis.Redis:
    return redis.Redis.from_url(redis_url, decode_responses=True)


def port_of(url: str) -> int:
    return int(url.rsplit(":", 1)[1].partition("/")[0])


def is_listening(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def servers() -> Iterator[EmbeddedServers]:
    with throwaway_servers() as servers:
        yield servers


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    """A data folder that the account of root's servers cannot enter. Data outside of it is removed at the end."""
    data_dir = tmp_path / "data"
    yield data_dir
    if data_dir.exists():
        EmbeddedServers(data_dir).remove()


def test_the_first_start_gives_servers_as_the_system_needs_them(servers: EmbeddedServers) -> None:
    """PostgreSQL 18 has pgvector and UTF-8 in the builtin locale. Valkey persists and never evicts."""
    url = servers.urls.database_url
    with valkey(servers.urls.redis_url) as client:
        policy, persistence = client.config_get("maxmemory-policy"), client.config_get("appendonly")

    assert str(ask(url, "SHOW server_version")).startswith("18.")
    assert ask(url, "SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'") == 1
    assert (
        ask(url, "SELECT datlocprovider::text || datlocale FROM pg_database WHERE datname = current_database()")
        == "bC.UTF-8"
    )
    assert (policy, persistence) == ({"maxmemory-policy": "noeviction"}, {"appendonly": "yes"})


def test_nobody_gets_in_without_the_password(servers: EmbeddedServers) -> None:
    """All users of a machine can connect to loopback, so both servers require the password."""
    database_port, redis_port = port_of(servers.urls.database_url), port_of(servers.urls.redis_url)

    with pytest.raises(psycopg.OperationalError, match="password"):
        ask(f"postgresql://gristmill@127.0.0.1:{database_port}/gristmill", "SELECT 1")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        ask(f"postgresql://gristmill:guess@127.0.0.1:{database_port}/gristmill", "SELECT 1")
    with pytest.raises(redis.AuthenticationError):
        valkey(f"redis://127.0.0.1:{redis_port}/0").ping()


def test_servers_listen_on_loopback_only(servers: EmbeddedServers) -> None:
    """Other machines cannot connect."""
    with valkey(servers.urls.redis_url) as client:
        bound = client.config_get("bind")

    assert ask(servers.urls.database_url, "SHOW listen_addresses") == "127.0.0.1"
    assert bound == {"bind": "127.0.0.1"}


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")
def test_no_command_line_or_log_shows_the_password(servers: EmbeddedServers) -> None:
    """Every user may list the processes of a machine."""
    password = servers.urls.redis_url.removeprefix("redis://:").partition("@")[0].encode()
    shown = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    logged = [path.read_bytes() for path in (servers.data_dir / "logs").iterdir()]

    assert len(logged) == 2
    assert not any(password in text for text in shown + logged)


def test_data_and_secrets_are_private(servers: EmbeddedServers) -> None:
    """No other account may read data, logs and state. The repr of the URLs hides the passwords."""
    folder = servers.data_dir
    private = [folder / "servers/postgres", folder / "servers/valkey", folder / "logs"]

    assert [path.stat().st_mode & 0o777 for path in private] == [0o700] * 3
    assert folder.stat().st_mode & 0o066 == 0
    assert (folder / "servers.json").stat().st_mode & 0o777 == 0o600
    assert repr(servers.urls) == "Urls()"


@pytest.mark.skipif(not AS_ROOT, reason="only root has privileges to drop")
def test_root_drops_its_privileges(servers: EmbeddedServers) -> None:
    """PostgreSQL refuses to run as root, and Valkey does not need to."""
    owners = {path.owner() for path in (servers.data_dir / "servers/postgres", servers.data_dir / "servers/valkey")}

    assert owners == {"nobody"}


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_servers_come_back_on_their_ports_with_their_data(servers: EmbeddedServers, end: str) -> None:
    """After a clean stop or kill -9, both servers have the same address and their data."""
    before = servers.urls
    ask(before.database_url, f"CREATE TABLE kept_over_{end} AS SELECT 42 AS answer")
    with valkey(before.redis_url) as client:
        client.set(f"kept over {end}", "42")
        if end == "kill":
            client.execute_command("WAITAOF", 1, 0, 2_000)  # after a crash Valkey may lose the last second

    for name in ("postgres", "valkey"):
        getattr(servers, f"{end}_{name}")()
    down = [is_listening(port_of(url)) for url in (before.database_url, before.redis_url)]
    servers.start_postgres()
    servers.start_valkey()

    assert down == [False, False]
    assert servers.urls == before
    assert ask(before.database_url, f"SELECT answer FROM kept_over_{end}") == 42
    with valkey(before.redis_url) as client:
        assert client.get(f"kept over {end}") == "42"


def test_a_crashed_server_is_restarted_and_a_stopped_one_is_not(servers: EmbeddedServers) -> None:
    """A server that ended unexpectedly is started again. A stopped one stays down until it is started."""
    servers.stop_valkey()
    postmaster = (servers.data_dir / "servers/postgres/postmaster.pid").read_text().split()[0]
    os.kill(int(postmaster), signal.SIGKILL)

    assert within(10, lambda: servers.restart_ended() == ["postgres"])
    assert ask(servers.urls.database_url, "SELECT 1") == 1
    assert not is_listening(port_of(servers.urls.redis_url))
    servers.start_valkey()


def test_password_ports_and_data_outlive_the_process(data_dir: Path) -> None:
    """The next run in the same folder has the same passwords, ports and data."""
    with embedded_servers(data_dir) as first:
        ask(first.database_url, "CREATE TABLE kept AS SELECT 42 AS answer")
    with embedded_servers(data_dir) as second:
        answer = ask(second.database_url, "SELECT answer FROM kept")

    assert second == first
    assert answer == 42


def test_a_taken_port_is_replaced(data_dir: Path) -> None:
    """If another program has a stored port, the server starts on a new one."""
    with embedded_servers(data_dir, postgres=False) as first:
        pass
    with (
        socket.create_server(("127.0.0.1", port_of(first.redis_url))),
        embedded_servers(data_dir, postgres=False) as second,
        valkey(second.redis_url) as client,
    ):
        assert client.ping()
    with embedded_servers(data_dir, postgres=False) as third:
        pass

    assert port_of(second.redis_url) != port_of(first.redis_url)
    assert third == second
    assert third.database_url == ""


def test_a_second_start_in_one_folder_is_refused_in_one_line(servers: EmbeddedServers) -> None:
    """The refusal names the folder and its owner's process. The running servers are not disturbed."""
    with pytest.raises(EmbeddedError) as refusal:
        EmbeddedServers(servers.data_dir).start()

    assert str(servers.data_dir) in str(refusal.value)
    assert f"process {os.getpid()}" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert ask(servers.urls.database_url, "SELECT 1") == 1


def server_pids(database_url: str, redis_url: str) -> list[int]:
    """Ask the servers for the pids of their main processes."""
    with valkey(redis_url) as client:
        valkey_pid = client.info("server")["process_id"]
    cluster = Path(str(ask(database_url, "SHOW data_directory")))
    return [int((cluster / "postmaster.pid").read_text().split()[0]), int(valkey_pid)]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a process to its parent")
@pytest.mark.parametrize("victims", ["the owner", "everything"])
def test_servers_end_with_a_killed_process_and_start_again_after_it(data_dir: Path, victims: str) -> None:
    """After kill -9 of their starter, or of the servers too, no server runs and the next start works."""
    script = f"""
import time
from pathlib import Path
from local.embedded import EmbeddedServers
urls = EmbeddedServers(Path({str(data_dir)!r}), durable=False).start()
print(urls.database_url, urls.redis_url, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", script], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout
        database_url, redis_url = owner.stdout.readline().split()
        ask(database_url, "CREATE TABLE kept AS SELECT 42 AS answer")
        pids = server_pids(database_url, redis_url)

        for pid in [*pids, owner.pid] if victims == "everything" else [owner.pid]:
            os.kill(pid, signal.SIGKILL)

        ports = [port_of(database_url), port_of(redis_url)]
        assert within(10, lambda: not any(is_listening(port) for port in ports))
    with embedded_servers(data_dir) as urls:
        assert (urls.database_url, urls.redis_url) == (database_url, redis_url)
        assert ask(urls.database_url, "SELECT answer FROM kept") == 42


@pytest.mark.skipif(not AS_ROOT, reason="only root can take on a uid that has no passwd entry")
def test_a_user_without_a_name_is_asked_for_a_database(tmp_path: Path) -> None:
    """A container's arbitrary uid cannot create a cluster. One line says so and what to set instead."""
    script = f"""
import os
from pathlib import Path
from local.embedded import EmbeddedError, EmbeddedServers
os.seteuid(54321)
try:
    EmbeddedServers(Path({str(tmp_path / "data")!r})).start()
except EmbeddedError as error:
    print(error)
"""
    shown = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)

    assert "uid 54321 has no passwd entry" in shown.stdout
    assert "DATABASE_URL" in shown.stdout
    assert shown.stdout.count("\n") == 1


@pytest.mark.skipif(not AS_ROOT, reason="an ordinary user's servers can enter what the user can")
def test_data_of_a_closed_folder_is_where_its_servers_can_enter(data_dir: Path) -> None:
    """Below root's home the data is in the system's folder for variable data, and is removed with its data folder."""
    data_dir.parent.chmod(0o700)
    servers = EmbeddedServers(data_dir)
    servers.start()
    home = Path(json.loads((data_dir / "servers.json").read_text())["home"])
    cluster = (home / "postgres").stat()

    servers.remove()

    assert home.parent == SHARED_FOLDER
    assert cluster.st_mode & 0o777 == 0o700
    assert not home.exists()


def test_throwaway_servers_leave_nothing_behind() -> None:
    """After the block there are no files and no processes of them."""
    with throwaway_servers(postgres=False) as servers:
        folder, port = servers.data_dir, port_of(servers.urls.redis_url)

    assert not folder.exists()
    assert not is_listening(port)


def test_a_platform_without_the_wheels_is_told_what_to_set(tmp_path: Path) -> None:
    """Without the extra one line names it, and the variable that can be set instead."""
    script = f"""
import sys
from pathlib import Path
from local.embedded import EmbeddedError, EmbeddedServers
sys.path = [entry for entry in sys.path if "site-packages" not in entry]
sys.path_importer_cache.clear()
try:
    EmbeddedServers(Path({str(tmp_path / "data")!r})).start()
except EmbeddedError as error:
    print(error)
"""
    shown = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)

    assert "gristmill[embedded]" in shown.stdout
    assert "DATABASE_URL" in shown.stdout
    assert not (tmp_path / "data").exists()
