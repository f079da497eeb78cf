"""The data folder of one machine's Gristmill, and private files in it."""

import os
from contextlib import suppress
from pathlib import Path
from typing import IO

LOG_LIMIT_BYTES = 10_000_000


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
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def open_log(folder: Path, name: str) -> IO[bytes]:
    """Open ``folder/name.log`` to append, readable by its owner only; a log grown past 10 MB becomes ``name.log.1``."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{name}.log"
    if path.exists() and path.stat().st_size > LOG_LIMIT_BYTES:
        path.replace(path.with_suffix(".log.1"))
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab", buffering=0)
