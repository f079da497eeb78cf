"""The status that a supervisor publishes for other commands, and how they stop it. A pid counts only with the lock."""

import json
import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self

from local.data_dir import write_private
from local.folder_lock import FolderLock
from workers.runtime.refusals import Failed

LOCK_FILE = "up.lock"
STATUS_FILE = "up.json"


class SupervisionError(Failed):
    """The supervisor cannot start, be read or be stopped; the message is one line."""


@dataclass(frozen=True, slots=True)
class RoleStatus:
    """One role: ``state`` is starting, running, backing off or stopped."""

    name: str
    state: str
    pid: int | None
    restarts: int


@dataclass(frozen=True, slots=True)
class SupervisorStatus:
    """A running supervisor: ``state`` is starting, running or draining. ``urls`` contain passwords."""

    pid: int
    started_at: datetime
    state: str
    roles: tuple[RoleStatus, ...]
    urls: Mapping[str, str] = field(repr=False)

    def write(self, data_dir: Path) -> None:
        """Publish this status in ``data_dir``. Only the owner may read it."""
        content = asdict(self) | {"started_at": self.started_at.isoformat()}
        write_private(data_dir / STATUS_FILE, json.dumps(content, indent=2) + "\n")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the status that was written as ``text``."""
        content: dict[str, Any] = json.loads(text)
        content["roles"] = tuple(RoleStatus(**role) for role in content["roles"])
        content["started_at"] = datetime.fromisoformat(content["started_at"])
        return cls(**content)

    @staticmethod
    def forget(data_dir: Path) -> None:
        """Delete the published status."""
        (data_dir / STATUS_FILE).unlink(missing_ok=True)


def read_status(data_dir: Path) -> SupervisorStatus | None:
    """Return the status of the supervisor that now runs in ``data_dir``, or None if none does."""
    path = data_dir.resolve() / STATUS_FILE
    try:
        if FolderLock(path.parent, LOCK_FILE).holder() is None:
            return None
        return SupervisorStatus.parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None  # it has not published its first status yet, or has deleted its last one
    except OSError as error:
        raise SupervisionError(f"data folder {str(path.parent)!r} cannot be read: {error}") from error
    except (KeyError, TypeError, ValueError):
        raise SupervisionError(f"{str(path)!r} was written by another version: stop that supervisor first") from None


def stop_supervisor(data_dir: Path, *, timeout: timedelta) -> bool:
    """Ask the supervisor that runs in ``data_dir`` to drain, and wait until it ends; return whether one ran.

    Raises SupervisionError if this user may not signal it, or if it still runs after ``timeout``.
    """
    lock = FolderLock(data_dir.resolve(), LOCK_FILE)
    deadline = time.monotonic() + timeout.total_seconds()
    try:
        holder = lock.holder()
        if holder is None:
            return False
        with suppress(ProcessLookupError):
            os.kill(holder, signal.SIGTERM)
        while lock.holder() == holder:
            if time.monotonic() > deadline:
                raise SupervisionError(f"process {holder} is still draining after {timeout.total_seconds():g} s")
            time.sleep(0.1)
    except OSError as error:
        raise SupervisionError(f"the supervisor of {str(lock.folder)!r} cannot be stopped: {error}") from error
    return True
