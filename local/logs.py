"""What the roles of one machine wrote: the last lines of their logs, and those that come. Reads only."""

import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from workers.runtime.refusals import Failed, Refusal

_POLL_SECONDS = 0.2
_PIECE_BYTES = 64 * 1024
_LONGEST_LINE = 64 * 1024


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a role's log."""

    role: str
    line: str


def chosen(folder: Path, wanted: str | None) -> list[str]:
    """Return the roles that have a log in ``folder``: all of them, one, or all workers for ``worker``."""
    known = sorted(path.stem for path in folder.glob("*.log")) if folder.is_dir() else []
    if not known:
        raise Failed(f"no role has written a log in {folder}: `gristmill up` starts them")
    if wanted is None:
        return known
    found = [name for name in known if wanted in {name, name.rpartition("-")[0]}]
    if not found:
        raise Refusal(f"ROLE must be one of {', '.join(known)}, got {wanted!r}")
    return found


def last_lines(folder: Path, role: str, count: int) -> list[Line]:
    """Return the last ``count`` lines of a role, those before the last turn of its log included."""
    lines: deque[str] = deque(maxlen=count)
    for path in (folder / f"{role}.log.1", folder / f"{role}.log"):
        try:
            with path.open("rb") as log:
                lines.extend(_decoded(piece) for piece in _tail(log.fileno(), count))
        except FileNotFoundError:
            continue
    return [Line(role, line) for line in lines]


def _tail(log: int, count: int) -> Sequence[bytes]:
    """Return the last ``count`` lines, read from the end: a log of megabytes is not read whole for ten lines."""
    size = end = os.lseek(log, 0, os.SEEK_END)
    held = b""
    while end > 0 and held.count(b"\n") <= count:
        start = max(0, end - _PIECE_BYTES)
        held = os.pread(log, end - start, start) + held
        end = start
    lines = held.splitlines()
    return lines[-count:] if size else []


@dataclass(slots=True)
class _Followed:
    role: str
    path: Path
    place: int = 0
    rest: bytes = field(default=b"")

    def news(self) -> Iterator[Line]:
        """Yield the whole lines that were written since the last look; an emptied log begins anew."""
        try:
            content = b""
            if self.path.stat().st_size < self.place:
                content = _content(self.path.with_suffix(".log.1"), self.place)
                self.place = 0
            more = _content(self.path, self.place)
        except FileNotFoundError:
            return
        self.place += len(more)
        content += more
        *whole, self.rest = (self.rest + content).split(b"\n")
        if len(self.rest) > _LONGEST_LINE:
            whole, self.rest = [*whole, self.rest], b""
        yield from (Line(self.role, _decoded(line)) for line in whole)


def _content(path: Path, place: int) -> bytes:
    with path.open("rb") as log:
        log.seek(place)
        return log.read()


def follow(folder: Path, wanted: str | None, *, lines: int) -> Iterator[Line]:
    """Yield the last ``lines`` lines of each role, then what comes, for ever; a role that starts later joins."""
    followed: dict[str, _Followed] = {}
    for role in chosen(folder, wanted):
        path = folder / f"{role}.log"
        followed[role] = _Followed(role, path, path.stat().st_size)
        yield from last_lines(folder, role, lines)
    while True:
        for role in chosen(folder, wanted):
            yield from followed.setdefault(role, _Followed(role, folder / f"{role}.log")).news()
        time.sleep(_POLL_SECONDS)


def _decoded(line: bytes) -> str:
    return line.decode("utf-8", "replace").rstrip("\r")
