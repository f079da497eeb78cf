"""Commands as a person must type them here: with the program's path if the shell does not find it by its name."""

import os
import shlex
import shutil
import sys
from pathlib import Path

NAME = "gristmill"
DATA_DIR = "GRISTMILL_DATA_DIR"


def command_line(words: str) -> str:
    """Return the command for ``words`` (those after ``gristmill``), with the program and GRISTMILL_DATA_DIR if set."""
    data_dir = os.environ.get(DATA_DIR)
    variable = f"{DATA_DIR}={shlex.quote(data_dir)} " if data_dir else ""
    return f"{variable}{shlex.quote(program_path())} {words}"


def program_path() -> str:
    """Return how to call this program from the current folder."""
    called = Path(sys.argv[0])
    if called.name != NAME or called.parent == Path():
        return NAME  # started as a module, or found by its name alone
    on_path = shutil.which(NAME)
    if on_path is not None and Path(on_path).resolve() == called.resolve():
        return NAME
    whole, here = Path(os.path.abspath(called)), Path.cwd()  # noqa: PTH100 - resolve() would follow the venv's links
    return str(whole.relative_to(here)) if whole.is_relative_to(here) else str(whole)
