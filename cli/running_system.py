"""Find the system that a command means: the one of the data folder, else the one that a person would expect.

If GRISTMILL_DATA_DIR is set, only that folder is searched. Otherwise `.gristmill` of the parent folders and of the
folder of this installation are searched too, if the same user owns them.
"""

import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cli.output import remark
from cli.program import command_line
from local.data_dir import LOGS
from local.supervision_status import STATUS_FILE, SupervisorStatus, read_status

if TYPE_CHECKING:
    from config.settings import Settings


class RunningSystem(NamedTuple):
    """A system that runs, and its data folder."""

    data_dir: Path
    status: SupervisorStatus


def find_system(settings: "Settings", *, announce: bool = True) -> RunningSystem | None:
    """Return the running system. If it is not that of the current folder, say so on standard error, once."""
    for number, data_dir in enumerate(list_data_dirs(settings)):
        status = read_status(data_dir)
        if status is not None:
            if number and announce:
                _announce(data_dir)
            return RunningSystem(data_dir, status)
    return None


@cache  # a command that connects several times says it once
def _announce(data_dir: Path) -> None:
    remark(f"using the system that runs in {data_dir}")


def list_data_dirs(settings: "Settings") -> Iterator[Path]:
    """Yield the data folders to search, the most likely first."""
    yield settings.data_dir
    if "data_dir" in settings.model_fields_set:
        return
    here = settings.data_dir.resolve()
    installed = Path(sys.prefix).parent
    for folder in dict.fromkeys((*here.parent.parents, installed)):
        other = folder / settings.data_dir.name
        if other != here and _is_ours(other / STATUS_FILE):
            yield other


def no_system_line(settings: "Settings") -> str:
    """Return the error line if no system runs: which folders were searched, and how to name another one."""
    is_named = "data_dir" in settings.model_fields_set
    searched = absolute_path(settings.data_dir) + ("" if is_named else ", nor in the folders above")
    return (
        f"nothing runs in {searched}; start it with `{command_line('up')}`, set GRISTMILL_DATA_DIR to the data folder"
        " of a running system, or set DATABASE_URL"
    )


def find_data_dir(settings: "Settings") -> Path:
    """Return the data folder of the database: that of the running system unless DATABASE_URL names another database."""
    system = find_system(settings, announce=False) if settings.database_url is None else None
    return system.data_dir if system else settings.data_dir


def find_logs_dir(settings: "Settings") -> Path:
    """Return the folder of the logs: that of the running system, else that of the data folder."""
    system = find_system(settings)
    return (system.data_dir if system else settings.data_dir).resolve() / LOGS


def absolute_path(data_dir: Path) -> str:
    """Return the absolute path of a data folder: a relative one does not help a person in the wrong folder."""
    return str(data_dir.resolve())


def _is_ours(status_file: Path) -> bool:
    """Return whether this user owns the file. Its owner decides which servers the command uses."""
    try:
        return status_file.stat().st_uid == os.geteuid()
    except OSError:
        return False
