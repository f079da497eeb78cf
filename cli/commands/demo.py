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
    """Score real profiles, then take two messy files all the way; show what came of both.

    The profiles are the Python packages installed here. The files are ingested, embedded, compared with guidelines,
    rated and searched. With --profiles it only scores.

    Starts everything it needs in the data folder and stops it again. Needs no network and no key.
    """
    from cli.demo.run import run
    from config.settings import load

    return run(load(), profiles, keep=keep)
