"""The data folder of one machine's Gristmill, and private files in it."""

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import IO

LOG_LIMIT_BYTES = 10_000_000
LOGS = "logs"


def make_data_dir(path: Path) -> None:
    """Create ``path`` for its owner alone; an existing folder keeps its mode.

    What root creates can be passed through, but not listed, by the account that root's servers run as; the files
    and folders inside are private themselves.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        path.mkdir()
        path.chmod(0o711 if os.geteuid() == 0 else 0o700)


def write_private(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` at once and durably, readable by its owner only."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(_private(draft), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def open_log(folder: Path, name: str) -> IO[bytes]:
    """Open ``folder/name.log`` to append, readable by its owner only; see :func:`bound_log` for its size."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{name}.log"
    bound_log(path)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab", buffering=0)


def bound_log(path: Path, *, limit: int = LOG_LIMIT_BYTES) -> bool:
    """Move what a log past ``limit`` bytes holds to ``name.log.1`` and empty it; return whether that was done.

    Whoever writes keeps its open file, which must append: the next line goes to the start. A line that is written in
    the instant between the copy and the emptying is lost.
    """
    try:
        if path.stat().st_size <= limit:
            return False
    except FileNotFoundError:
        return False
    with path.open("r+b") as log, os.fdopen(_private(path.with_suffix(".log.draft")), "wb") as kept:
        shutil.copyfileobj(log, kept)
        log.truncate(0)
    path.with_suffix(".log.draft").replace(path.with_suffix(".log.1"))
    return True


def bound_logs(folder: Path, *, limit: int = LOG_LIMIT_BYTES) -> None:
    """Keep every log of ``folder`` below ``limit`` bytes and what was written since the last look."""
    for path in folder.glob("*.log"):
        bound_log(path, limit=limit)


def last_line(log: Path, beginning: int) -> str:
    """Return the last line written to ``log`` after ``beginning``, without the command's name in front."""
    with suppress(FileNotFoundError), log.open("rb") as file:
        grown = file.seek(0, os.SEEK_END) >= beginning
        file.seek(beginning if grown else 0)
        lines = file.read().decode(errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "").removeprefix("gristmill: ")
    return ""


def _private(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
