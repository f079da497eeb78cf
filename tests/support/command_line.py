"""The command line in this process: as fast as a function, with everything a person would see of it."""

import json
from collections.abc import Callable
from typing import Any

# Takes a command's arguments; returns its exit code, its output and its complaint.
Gristmill = Callable[..., tuple[int, str, str]]


def as_json(gristmill: Gristmill, *arguments: str) -> Any:
    """Return what a command that succeeds prints with ``--json``."""
    code, output, said = gristmill(*arguments, "--json")
    assert code == 0, said
    return json.loads(output)
