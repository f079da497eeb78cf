"""Keep the roles of one machine running until a signal, and let other commands see and stop them.

A role is a command line. This room does not know what it does. The servers are restarted through one method.
"""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType, TracebackType
from typing import Protocol, Self

from local.data_dir import LOGS, last_line, make_data_dir, open_log, rotate_logs
from local.embedded.errors import EmbeddedError
from local.folder_lock import FolderInUseError, FolderLock
from local.processes import describe_exit, kill_session, spawn
from local.supervision_status import LOCK_FILE, RoleStatus, SupervisionError, SupervisorStatus
from workers.runtime.refusals import cut, printable

RESTART_BASE = timedelta(seconds=0.5)
MAX_RESTART_DELAY = timedelta(seconds=30)
HEALTHY_AFTER = timedelta(seconds=60)
DRAIN_MARGIN = timedelta(seconds=5)

_POLL_SECONDS = 0.1
_LOG_ROTATION_SECONDS = 5.0
_MAX_REASON_CHARS = 300
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """One process to keep running. Roles with ``stop_first`` must end before the others are stopped."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(repr=False)
    stop_first: bool = False


class Servers(Protocol):
    """The servers that the roles need, restarted by the supervisor."""

    def restart_ended(self) -> list[str]:
        """Start ended servers again; return their names, raise EmbeddedError if that fails."""


def restart_delay(failures: int, *, draw: Callable[[], float]) -> timedelta:
    """Return the delay before a restart after ``failures`` in a row, counted from 1.

    The delay doubles from 0.5 s to 30 s. ``draw``, a float in [0, 1), takes away up to half of it. So a role that
    cannot start is no busy loop, and roles that failed together do not restart together.
    """
    exponent = min(max(failures, 1) - 1, 32)
    return min(MAX_RESTART_DELAY, RESTART_BASE * 2.0**exponent) * (1 - draw() / 2)


def failures_after(failures: int, *, lived: timedelta) -> int:
    """Return the failures in a row after a process ended that ``lived`` this long. 60 s of life reset the count."""
    return 1 if lived >= HEALTHY_AFTER else failures + 1


@dataclass(slots=True)
class _SupervisedRole:
    """A role with its process, or with the time (monotonic) at which the next process is due."""

    role: Role
    process: subprocess.Popen[bytes] | None = None
    state: str = "starting"
    started: float = 0.0
    due: float = 0.0
    failures: int = 0
    restarts: int = 0
    logged: int = 0  # bytes in its log when its process started


class Supervisor:
    """Runs roles for one data folder. Enter it first: it locks the folder and handles SIGINT, SIGTERM and SIGHUP.

    ``report`` gets one line per event that an operator should see. The first signal starts draining, the second one
    ends the grace. Roles end with this process, however it ends.
    """

    def __init__(self, data_dir: Path, *, grace: timedelta, report: Callable[[str], None]) -> None:
        self.data_dir = data_dir.resolve()
        self.logs = self.data_dir / LOGS
        self._grace = grace
        self._report = report
        self._lock = FolderLock(self.data_dir, LOCK_FILE)
        self._kept: list[_SupervisedRole] = []
        self._urls: Mapping[str, str] = {}
        self._state = "starting"
        self._started_at = datetime.now(UTC)
        self._signals = 0
        self._former_handlers: dict[signal.Signals, Callable[[int, FrameType | None], object] | int | None] = {}

    def __enter__(self) -> Self:
        try:
            make_data_dir(self.data_dir)
            self._lock.acquire()
        except FolderInUseError as error:
            raise SupervisionError(str(error)) from None
        except OSError as error:
            raise SupervisionError(f"data folder {str(self.data_dir)!r} cannot be used: {error}") from error
        for number in _SIGNALS:
            if number != signal.SIGTERM and signal.getsignal(number) is signal.SIG_IGN:
                continue  # the caller, for example nohup, wants it ignored
            self._former_handlers[number] = signal.signal(number, self._note_signal)
        self._publish()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        SupervisorStatus.forget(self.data_dir)
        for number, handler in self._former_handlers.items():
            signal.signal(number, handler)
        self._lock.release()

    @property
    def stopping(self) -> bool:
        """Whether a signal asked to stop. Check it before long steps that come before :meth:`run`."""
        return self._signals > 0

    def start(self, roles: Sequence[Role], *, urls: Mapping[str, str]) -> None:
        """Start ``roles``; publish their states and ``urls`` for other commands to read."""
        self._urls = urls
        self._kept = [_SupervisedRole(role) for role in roles]
        self._state = "running"
        self._restart_ended_roles()
        self._publish()

    def run(self, servers: Servers | None = None) -> int:
        """Keep the roles, and ``servers`` if given, running until a signal, then drain; return the exit code."""
        failures, due, rotated = 0, 0.0, 0.0
        while not self.stopping:
            if servers and time.monotonic() >= due:
                failures = self._restart_servers(servers, failures)
                due = time.monotonic() + restart_delay(failures, draw=random.random).total_seconds() if failures else 0
            if self._restart_ended_roles():
                self._publish()
            if time.monotonic() >= rotated + _LOG_ROTATION_SECONDS:
                rotate_logs(self.logs)
                rotated = time.monotonic()
            time.sleep(_POLL_SECONDS)
        return 0 if self.stop() else 1

    def stop(self) -> bool:
        """Stop the roles: those with ``stop_first`` within the grace and 5 s, then the others within 5 s.

        A second signal ends the grace. The remaining roles are killed; return whether none was killed.
        """
        if not self._kept:
            return True
        self._state = "draining"
        self._publish()
        clean = True
        for first in (True, False):
            kept = [one for one in self._kept if one.role.stop_first is first]
            clean &= self._drain(kept, (self._grace if first else timedelta()) + DRAIN_MARGIN, may_be_cut=first)
        self._kept = []
        return clean

    def _restart_ended_roles(self) -> bool:
        """Note the roles that ended and start those that are due; return whether anything changed."""
        changed = False
        for kept in self._kept:
            if kept.process and kept.process.poll() is not None:
                self._fail(kept, self._describe_end(kept, kept.process.returncode))
                changed = True
            if kept.process is None and time.monotonic() >= kept.due:
                self._launch(kept)
                changed = True
        return changed

    def _launch(self, kept: _SupervisedRole) -> None:
        role = kept.role
        if kept.state == "backing off":
            kept.restarts += 1
        kept.started = time.monotonic()
        try:
            with open_log(self.logs, role.name) as log:
                kept.logged = os.fstat(log.fileno()).st_size
                kept.process = spawn(role.argv, env=role.env, output=log, end_signal=signal.SIGTERM)
        except (OSError, subprocess.SubprocessError) as error:
            self._fail(kept, f"cannot start: {error}")
        else:
            kept.state = "running"

    def _fail(self, kept: _SupervisedRole, how: str) -> None:
        lived = timedelta(seconds=time.monotonic() - kept.started)
        kept.failures = failures_after(kept.failures, lived=lived)
        delay = restart_delay(kept.failures, draw=random.random).total_seconds()
        kept.process, kept.state, kept.due = None, "backing off", time.monotonic() + delay
        log = self.logs / f"{kept.role.name}.log"
        self._report(f"{kept.role.name} {how}; restart {kept.restarts + 1} in {delay:.1f} s (log: {log})")

    def _describe_end(self, kept: _SupervisedRole, status: int) -> str:
        """Describe how a role ended. If it exited by itself, add the last line of its log as the reason."""
        reason = last_line(self.logs / f"{kept.role.name}.log", kept.logged) if status > 0 else ""
        return describe_exit(status) + (f": {printable(cut(reason, _MAX_REASON_CHARS))}" if reason else "")

    def _restart_servers(self, servers: Servers, failures: int) -> int:
        """Restart ended ``servers``; return the number of failed attempts in a row."""
        try:
            for name in servers.restart_ended():
                self._report(f"{name} ended unexpectedly and was started again")
        except EmbeddedError as error:
            self._report(str(error))
            return failures + 1
        return 0

    def _drain(self, kept: Sequence[_SupervisedRole], patience: timedelta, *, may_be_cut: bool) -> bool:
        alive = {one.role.name: one.process for one in kept if one.process and one.process.poll() is None}
        for process in alive.values():
            process.terminate()
        deadline = time.monotonic() + patience.total_seconds()
        while any(process.poll() is None for process in alive.values()):
            if time.monotonic() > deadline or (may_be_cut and self._signals > 1):
                break
            time.sleep(_POLL_SECONDS / 2)
        late = {name: process for name, process in alive.items() if process.poll() is None}
        for name, process in late.items():
            kill_session(process)
            self._report(f"{name} did not end in time and was killed")
        for one in kept:
            one.process, one.state = None, "stopped"
        self._publish()
        return not late

    def _publish(self) -> None:
        roles = [
            RoleStatus(one.role.name, one.state, one.process.pid if one.process else None, one.restarts)
            for one in self._kept
        ]
        SupervisorStatus(os.getpid(), self._started_at, self._state, tuple(roles), dict(self._urls)).write(
            self.data_dir
        )

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._signals += 1
