"""The data folder of Gristmill on one machine, and private files in it."""

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import IO

MAX_LOG_BYTES = 10_000_000
LOGS = "logs"


def make_data_dir(path: Path) -> None:
    """Create ``path`` for its owner only. An existing folder keeps its mode.

    If root creates it, the account of the servers may enter but not list it. The files and folders inside are private.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        path.mkdir()
        path.chmod(0o711 if os.geteuid() == 0 else 0o700)


def write_private(path: Path, text: str) -> None:
    """Replace the content of ``path`` by ``text``, atomically and durably. Only its owner may read it."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(_open_private(draft), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def open_log(folder: Path, name: str) -> IO[bytes]:
    """Open ``folder/name.log`` to append. Only its owner may read it. See :func:`rotate_log` for its size."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{name}.log"
    rotate_log(path)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab", buffering=0)


def rotate_log(path: Path, *, limit: int = MAX_LOG_BYTES) -> bool:
    """If a log is larger than ``limit`` bytes, move its content to ``name.log.1``; return whether that was done.

    Writers keep their open file. They must append, so that the next line goes to the start of the emptied file. A line
    written between the copy and the truncation is lost.
    """
    try:
        if path.stat().st_size <= limit:
            return False
    except FileNotFoundError:
        return False
    with path.open("r+b") as log, os.fdopen(_open_private(path.with_suffix(".log.draft")), "wb") as kept:
        shutil.copyfileobj(log, kept)
        log.truncate(0)
    path.with_suffix(".log.draft").replace(path.with_suffix(".log.1"))
    return True


def rotate_logs(folder: Path, *, limit: int = MAX_LOG_BYTES) -> None:
    """Rotate every log in ``folder`` that is larger than ``limit`` bytes."""
    for path in folder.glob("*.log"):
        rotate_log(path, limit=limit)


def last_line(log: Path, beginning: int) -> str:
    """Return the last line written to ``log`` after ``beginning``, without the prefix ``gristmill:``."""
    with suppress(FileNotFoundError), log.open("rb") as file:
        grown = file.seek(0, os.SEEK_END) >= beginning
        file.seek(beginning if grown else 0)
        lines = file.read().decode(errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "").removeprefix("gristmill: ")
    return ""


def _open_private(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
