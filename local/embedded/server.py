"""One embedded server. It starts only after all processes of its last run have ended."""

import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from local.data_dir import open_log
from local.embedded.account import ServerAccount
from local.embedded.errors import EmbeddedError
from local.folder_lock import flock_within
from local.processes import describe_exit, spawn

HOST = "127.0.0.1"
# The caller's environment is not passed on: it may hold keys, and the servers may run as another user.
ENVIRONMENT: Mapping[str, str] = {"LC_ALL": "C", "PATH": os.defpath}

_READY_SECONDS = 60.0
_GONE_SECONDS = 30.0
_POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What both servers share: folders, the account that runs them, the password, and whether data must survive."""

    home: Path
    logs: Path
    account: ServerAccount
    password: str
    durable: bool


class Server(ABC):
    """A server that is a child process of this one.

    Every process of the server inherits a lock on ``home/<name>.lock``. The kernel releases it when the last of them
    ends. So the holder of the lock knows, without trusting a pid, that no old process still writes to the data.
    """

    name: ClassVar[str]
    stop_signals: ClassVar[tuple[signal.Signals, ...]]

    def __init__(self, program: Path, site: Site) -> None:
        self.program = program
        self.site = site
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def prepare(self, lock: int) -> None:
        """Prepare the data folder for a start. Processes that write to it inherit ``lock``."""

    @abstractmethod
    def launch(self, lock: int) -> subprocess.Popen[bytes]:
        """Start the process on ``port``."""

    @abstractmethod
    def answers(self) -> bool:
        """Return whether this server answers a request; another server on the port does not count."""

    @property
    @abstractmethod
    def url(self) -> str:
        """The URL of the server with its password."""

    @property
    def exited(self) -> bool:
        """Whether the server ended without a request to stop."""
        return self._process is not None and self._process.poll() is not None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @contextmanager
    def exclusive(self) -> Iterator[int]:
        """Hold the server's lock, so that no process of an earlier run exists. Yield the lock for child processes."""
        path = self.site.home / f"{self.name}.lock"
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if not flock_within(lock, _GONE_SECONDS):
                raise EmbeddedError(
                    f"{self.name} of an earlier run still holds {str(self.site.home)!r} after {_GONE_SECONDS:g} s:"
                    " stop it, then start again"
                )
            yield lock
        finally:
            os.close(lock)

    def start(self, port: int, lock: int) -> None:
        """Start on ``port``; return once the server answers a connection. Raise EmbeddedError if it does not."""
        log = self.site.logs / f"{self.name}.log"
        seen = log.stat().st_size if log.exists() else 0
        self.prepare(lock)
        self.port = port
        self._process = self.launch(lock)
        deadline = time.monotonic() + _READY_SECONDS
        while not self.answers():
            if self._process.poll() is not None:
                how = describe_exit(self._process.returncode)
                raise EmbeddedError(f"{self.name} {how} while starting: {last_error_line(log, seen)} (log: {log})")
            if time.monotonic() > deadline:
                self._end()
                raise EmbeddedError(f"{self.name} did not answer on port {port} in {_READY_SECONDS:g} s (log: {log})")
            time.sleep(_POLL_SECONDS)

    def stop(self) -> None:
        """Stop the server with its own signals, then with SIGKILL if needed. Do nothing if it does not run."""
        self._end()
        self._process = None

    def kill(self) -> None:
        """Kill the server with SIGKILL, like a crash; return when its last process has ended."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        with self.exclusive():
            pass

    def run(
        self, argv: list[str | os.PathLike[str]], lock: int, *, stdin: int = subprocess.DEVNULL
    ) -> subprocess.Popen[bytes]:
        """Start ``argv`` with this server's account, log and lock. It ends with this process."""
        with open_log(self.site.logs, self.name) as log:
            return spawn(
                argv,
                env=ENVIRONMENT,
                output=log,
                end_signal=self.stop_signals[0],
                stdin=stdin,
                cwd=Path("/"),
                run_as=self.site.account.run_as,
                inherited_files=[lock],
            )

    def _end(self) -> None:
        if self._process is None:
            return
        for stop_signal in self.stop_signals:
            self._process.send_signal(stop_signal)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_GONE_SECONDS)
                return
        self._process.kill()
        self._process.wait()


def last_error_line(log: Path, offset: int = 0) -> str:
    """Return the last line of ``log`` after ``offset`` that reports a failure, else the last line."""
    with log.open("rb") as file:
        rotated = file.seek(0, os.SEEK_END) < offset
        file.seek(0 if rotated else offset)
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    failures = [line for line in lines if any(word in line.lower() for word in ("fatal", "panic", "error", "failed"))]
    return (failures or lines or ["it printed nothing"])[-1]
