"""A command as this person must type it here: with the program's path where the shell does not find it by its name."""

import os
import shlex
import shutil
import sys
from pathlib import Path

NAME = "gristmill"
DATA_DIR = "GRISTMILL_DATA_DIR"


def typed(command: str) -> str:
    """Return ``command``, the words after ``gristmill``, with all that has to stand before them."""
    named = os.environ.get(DATA_DIR)
    where = f"{DATA_DIR}={shlex.quote(named)} " if named else ""
    return f"{where}{shlex.quote(program())} {command}"


def program() -> str:
    """Return how to call this program from the current folder."""
    called = Path(sys.argv[0])
    if called.name != NAME or called.parent == Path():
        return NAME  # as a module, or found by its name alone
    found = shutil.which(NAME)
    if found is not None and Path(found).resolve() == called.resolve():
        return NAME
    whole, here = Path(os.path.abspath(called)), Path.cwd()  # noqa: PTH100 - resolve() would follow the venv's links
    return str(whole.relative_to(here)) if whole.is_relative_to(here) else str(whole)
