"""Run the command line in this process, with the output that a person would see."""

import json
from collections.abc import Callable
from typing import Any

# Takes a command's arguments; returns its exit code, its output and its error output.
Gristmill = Callable[..., tuple[int, str, str]]


def as_json(gristmill: Gristmill, *arguments: str) -> Any:
    """Return the ``--json`` output of a command that must succeed."""
    code, output, said = gristmill(*arguments, "--json")
    assert code == 0, said
    return json.loads(output)
