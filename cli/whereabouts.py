"""Find the system that a command means: the one in the data folder, else one that a person would expect to find.

A data folder that was named is the only one looked into. Without a name, `.gristmill` of the folders above and of the
folder in which this program is installed count too, if the same user owns them.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cli.output import remark
from cli.typed import typed
from local.data_dir import LOGS
from local.supervision_status import STATUS_FILE, SupervisorStatus, read_status

if TYPE_CHECKING:
    from config.settings import Settings


class Found(NamedTuple):
    """A system that runs, and its data folder."""

    data_dir: Path
    status: SupervisorStatus


def find(settings: "Settings", *, say: bool = True) -> Found | None:
    """Return the running system; one of another folder than the current one is told on standard error."""
    for number, data_dir in enumerate(places(settings)):
        status = read_status(data_dir)
        if status is not None:
            if number and say:
                remark(f"using the system that runs in {data_dir}")
            return Found(data_dir, status)
    return None


def places(settings: "Settings") -> Iterator[Path]:
    """Yield the data folders to look into, the most likely first."""
    yield settings.data_dir
    if "data_dir" in settings.model_fields_set:
        return
    here = settings.data_dir.resolve()
    installed = Path(sys.prefix).parent
    for folder in dict.fromkeys((*here.parent.parents, installed)):
        other = folder / settings.data_dir.name
        if other != here and _is_ours(other / STATUS_FILE):
            yield other


def nothing_runs(settings: "Settings") -> str:
    """Return the line that says where was looked, and how to name another place."""
    named = "data_dir" in settings.model_fields_set
    looked = shown(settings.data_dir) + ("" if named else ", nor in the folders above")
    return (
        f"nothing runs in {looked}; start it with `{typed('up')}`, name the data folder of a system that runs with"
        " GRISTMILL_DATA_DIR, or set DATABASE_URL"
    )


def data_folder(settings: "Settings") -> Path:
    """Return the data folder of the database: that of the running system unless DATABASE_URL names another database."""
    found = find(settings, say=False) if settings.database_url is None else None
    return found.data_dir if found else settings.data_dir


def logs_folder(settings: "Settings") -> Path:
    """Return the folder of logs: of the system that runs, else of the data folder."""
    found = find(settings)
    return (found.data_dir if found else settings.data_dir).resolve() / LOGS


def shown(data_dir: Path) -> str:
    """Return the whole path of a data folder: a relative one says nothing to whoever is in the wrong folder."""
    return str(data_dir.resolve())


def _is_ours(status_file: Path) -> bool:
    """Tell whether this user wrote it: whoever else could would choose which servers we talk to."""
    try:
        return status_file.stat().st_uid == os.geteuid()
    except OSError:
        return False
