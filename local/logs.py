"""Read the logs of one machine's roles: their last lines, and new lines as they come."""

import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from workers.runtime.refusals import Failed, Refusal

_POLL_SECONDS = 0.2
_CHUNK_BYTES = 64 * 1024
_MAX_LINE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of a role's log."""

    role: str
    line: str


def choose_roles(folder: Path, wanted: str | None) -> list[str]:
    """Return the roles that have a log in ``folder``: all of them, the wanted one, or all workers for ``worker``."""
    known = sorted(path.stem for path in folder.glob("*.log")) if folder.is_dir() else []
    if not known:
        raise Failed(f"no role has written a log in {folder}: `gristmill up` starts them")
    if wanted is None:
        return known
    found = [name for name in known if wanted in {name, name.rpartition("-")[0]}]
    if not found:
        raise Refusal(f"ROLE must be one of {', '.join(known)}, got {wanted!r}")
    return found


def last_lines(folder: Path, role: str, count: int) -> list[LogLine]:
    """Return the last ``count`` lines of a role, also from its rotated log."""
    lines: deque[str] = deque(maxlen=count)
    for path in (folder / f"{role}.log.1", folder / f"{role}.log"):
        try:
            with path.open("rb") as log:
                lines.extend(_decode(line) for line in _tail(log.fileno(), count))
        except FileNotFoundError:
            continue
    return [LogLine(role, line) for line in lines]


def _tail(log: int, count: int) -> Sequence[bytes]:
    """Return the last ``count`` lines. Reads from the end, because a log may have megabytes."""
    size = end = os.lseek(log, 0, os.SEEK_END)
    held = b""
    while end > 0 and held.count(b"\n") <= count:
        start = max(0, end - _CHUNK_BYTES)
        held = os.pread(log, end - start, start) + held
        end = start
    lines = held.splitlines()
    return lines[-count:] if size else []


@dataclass(slots=True)
class _FollowedLog:
    role: str
    path: Path
    place: int = 0
    rest: bytes = field(default=b"")

    def new_lines(self) -> Iterator[LogLine]:
        """Yield the complete lines written since the last call. If the log was rotated, read both files."""
        try:
            content = b""
            if self.path.stat().st_size < self.place:
                content = _read_from(self.path.with_suffix(".log.1"), self.place)
                self.place = 0
            more = _read_from(self.path, self.place)
        except FileNotFoundError:
            return
        self.place += len(more)
        content += more
        *whole, self.rest = (self.rest + content).split(b"\n")
        if len(self.rest) > _MAX_LINE_BYTES:
            whole, self.rest = [*whole, self.rest], b""
        yield from (LogLine(self.role, _decode(line)) for line in whole)


def _read_from(path: Path, place: int) -> bytes:
    with path.open("rb") as log:
        log.seek(place)
        return log.read()


def follow_logs(folder: Path, wanted: str | None, *, lines: int) -> Iterator[LogLine]:
    """Yield the last ``lines`` lines of each role, then every new line, without end. New roles are followed too."""
    followed: dict[str, _FollowedLog] = {}
    for role in choose_roles(folder, wanted):
        path = folder / f"{role}.log"
        followed[role] = _FollowedLog(role, path, path.stat().st_size)
        yield from last_lines(folder, role, lines)
    while True:
        for role in choose_roles(folder, wanted):
            yield from followed.setdefault(role, _FollowedLog(role, folder / f"{role}.log")).new_lines()
        time.sleep(_POLL_SECONDS)


def _decode(line: bytes) -> str:
    return line.decode("utf-8", "replace").rstrip("\r")
