"""Start, restart and stop the embedded servers of one data folder."""

import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from local.data_dir import LOGS, make_data_dir
from local.embedded.account import find_server_account
from local.embedded.binaries import postgres_program, valkey_program
from local.embedded.errors import EmbeddedError
from local.embedded.home import STATE_FILE, ServersState, prepare_home, remove_home
from local.embedded.ports import choose_port, is_free
from local.embedded.postgres import Postgres
from local.embedded.server import Server, Site
from local.embedded.valkey import Valkey
from local.folder_lock import FolderInUseError, FolderLock


@dataclass(frozen=True, slots=True)
class Urls:
    """The URLs of the servers with their passwords; empty for a server that was not requested."""

    database_url: str = field(default="", repr=False)
    redis_url: str = field(default="", repr=False)


class EmbeddedServers:
    """PostgreSQL and Valkey with their data, password and ports kept in ``data_dir``.

    Only one process at a time may run them there. They end with this process, however it ends. Only the main thread
    may start them. Every error is an EmbeddedError of one line. ``durable=False``, for tests, loses data if the machine
    loses power.
    """

    def __init__(self, data_dir: Path, *, postgres: bool = True, valkey: bool = True, durable: bool = True) -> None:
        self.data_dir = data_dir.resolve()
        self._wanted = {Postgres.name: postgres, Valkey.name: valkey}
        self._durable = durable
        self._lock = FolderLock(self.data_dir, "servers.lock")
        self._servers: dict[str, Server] = {}
        self._urls = Urls()

    @property
    def urls(self) -> Urls:
        """The URLs of the servers since the last start. They keep their ports until the next start."""
        return self._urls

    def start(self) -> Urls:
        """Start the requested servers, creating them on first use; return when all of them answer.

        If another process has taken a server's port, it gets a new one. If one server fails, the others are stopped.
        """
        if not self._servers:
            try:
                with _raise_embedded_error(self.data_dir):
                    self._start()
            except BaseException:
                self.stop()
                raise
        return self._urls

    def stop(self) -> None:
        """Stop the servers cleanly and release the folder. A server that does not run is not an error."""
        for server in reversed(self._servers.values()):
            server.stop()
        self._servers = {}
        self._lock.release()

    def remove(self) -> None:
        """Stop the servers, then delete their data and their state, also outside the data folder."""
        self.stop()
        with _raise_embedded_error(self.data_dir):
            self._lock.acquire()
            try:
                state = ServersState.read(self.data_dir / STATE_FILE)
                if state is not None:
                    remove_home(self.data_dir, state)
                    (self.data_dir / STATE_FILE).unlink()
            finally:
                self._lock.release()

    def restart_ended(self) -> list[str]:
        """Start each server again, on its port, that ended without a request to stop; return their names."""
        ended = [name for name, server in self._servers.items() if server.exited]
        for name in ended:
            self._restart(name)
        return ended

    def start_postgres(self) -> None:
        """Start PostgreSQL again after its stop or kill, on the same port."""
        self._restart(Postgres.name)

    def stop_postgres(self) -> None:
        """Stop PostgreSQL cleanly; its clients see their connections end."""
        self._server(Postgres.name).stop()

    def kill_postgres(self) -> None:
        """Kill PostgreSQL with SIGKILL, as a crash would."""
        self._server(Postgres.name).kill()

    def start_valkey(self) -> None:
        """Start Valkey again after its stop or kill, on the same port."""
        self._restart(Valkey.name)

    def stop_valkey(self) -> None:
        """Stop Valkey cleanly; its data stays on disk."""
        self._server(Valkey.name).stop()

    def kill_valkey(self) -> None:
        """Kill Valkey with SIGKILL; up to one second of writes is lost."""
        self._server(Valkey.name).kill()

    def _start(self) -> None:
        account = find_server_account()
        found = {
            name: program(account)
            for name, program in ((Postgres.name, postgres_program), (Valkey.name, valkey_program))
            if self._wanted[name]
        }
        make_data_dir(self.data_dir)
        self._lock.acquire()
        home, state = prepare_home(self.data_dir, account)
        site = Site(
            home=home,
            logs=self.data_dir / LOGS,
            account=account,
            password=state.password,
            durable=self._durable,
        )
        self._servers = {kind.name: kind(found[kind.name], site) for kind in (Postgres, Valkey) if kind.name in found}
        urls = {}
        for name, server in self._servers.items():
            with server.exclusive() as lock:
                server.start(self._port_of(name, state), lock)
            urls[f"{'database' if name == Postgres.name else 'redis'}_url"] = server.url
        self._urls = Urls(**urls)

    def _port_of(self, name: str, state: ServersState) -> int:
        """Return the stored port of ``name``. If there is none or it is taken, choose and store a new one."""
        port = state.ports.get(name)
        if port is None or not is_free(port):
            port = state.ports[name] = choose_port()
            state.write(self.data_dir / STATE_FILE)
        return port

    def _server(self, name: str) -> Server:
        try:
            return self._servers[name]
        except KeyError:
            raise EmbeddedError(f"{name} of {str(self.data_dir)!r} was not started") from None

    def _restart(self, name: str) -> None:
        server = self._server(name)
        if not server.running:
            with _raise_embedded_error(self.data_dir), server.exclusive() as lock:
                server.start(server.port, lock)


@contextmanager
def embedded_servers(data_dir: Path, *, postgres: bool = True, valkey: bool = True) -> Iterator[Urls]:
    """Run the servers of ``data_dir`` while the block runs."""
    servers = EmbeddedServers(data_dir, postgres=postgres, valkey=valkey)
    try:
        yield servers.start()
    finally:
        servers.stop()


@contextmanager
def throwaway_servers(*, postgres: bool = True, valkey: bool = True) -> Iterator[EmbeddedServers]:
    """Run new, empty, fast but not durable servers while the block runs; then delete everything of them."""
    # Not mkdtemp: the account that runs root's servers could not enter its folder.
    data_dir = Path(tempfile.gettempdir()) / f"gristmill-{secrets.token_hex(8)}"
    servers = EmbeddedServers(data_dir, postgres=postgres, valkey=valkey, durable=False)
    try:
        servers.start()
        yield servers
    finally:
        servers.stop()
        if data_dir.exists():
            servers.remove()
            shutil.rmtree(data_dir)


@contextmanager
def _raise_embedded_error(data_dir: Path) -> Iterator[None]:
    """Turn errors of the operating system into EmbeddedError."""
    try:
        yield
    except FolderInUseError as error:
        raise EmbeddedError(str(error)) from None
    except (OSError, subprocess.SubprocessError) as error:
        raise EmbeddedError(f"embedded servers in {str(data_dir)!r} cannot run: {error}") from error
