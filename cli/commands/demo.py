"""``gristmill demo``."""

from pathlib import Path
from typing import Annotated

import typer


def demo(
    profiles: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Score these instead: .jsonl or .csv, a name per line.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the system running afterwards.")] = False,
) -> int:
    """Score real profiles, the Python packages installed here, and show the best and the worst with reasons.

    Starts everything it needs in the data folder and stops it again. Needs no network and no key.
    """
    from cli.demo.run import run
    from config.settings import load

    return run(load(), profiles, keep=keep)
