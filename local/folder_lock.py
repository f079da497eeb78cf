"""One owner per folder, by a flock. The kernel releases it when its holder ends, so no stale lock can remain."""

import errno
import fcntl
import os
import time
from pathlib import Path

_LOCK_WAIT_SECONDS = 0.5


class FolderInUseError(Exception):
    """Another running process owns the folder; the message names both."""

    def __init__(self, folder: Path, holder: int | None) -> None:
        owner = f"process {holder}" if holder else "another process"
        super().__init__(
            f"data folder {str(folder)!r} is in use by {owner}: stop that one first, or set GRISTMILL_DATA_DIR"
        )
        self.holder = holder


class FolderLock:
    """The right to run in a folder: a lock on the file ``name`` there, which holds the owner's pid."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.path = folder / name
        self._file: int | None = None

    def acquire(self) -> None:
        """Take the lock for the life of this process, or raise FolderInUseError."""
        file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        # `holder` also locks the file for a moment. A process that holds the lock longer is an owner.
        if not flock_within(file, _LOCK_WAIT_SECONDS):
            os.close(file)
            raise FolderInUseError(self.folder, _recorded_pid(self.path))
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        self._file = file

    def release(self) -> None:
        """Release the lock. Do nothing if it is not held."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def holder(self) -> int | None:
        """Return the pid of the running process that holds the lock, or None."""
        try:
            file = os.open(self.path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _recorded_pid(self.path)
        finally:
            os.close(file)
        return None


def flock_within(file: int, seconds: float) -> bool:
    """Lock ``file`` exclusively, waiting at most ``seconds``; return whether it is locked."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        else:
            return True


def _recorded_pid(path: Path) -> int | None:
    text = path.read_text(encoding="ascii").strip()
    return int(text) if text.isdecimal() else None
