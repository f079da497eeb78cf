"""``gristmill demo``."""

from pathlib import Path
from typing import Annotated

import typer

from cli.demo.run import clean as remove
from cli.demo.run import run
from config.settings import load
from workers.runtime.refusals import Refusal


def demo(
    profiles: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Score these instead: .jsonl or .csv, a name per line.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the system running afterwards.")] = False,
    clean: Annotated[bool, typer.Option("--clean", help="Only remove what demonstrations have left.")] = False,
) -> int:
    """Score real profiles, take two messy files all the way, assess a server's description; show what came of each.

    The profiles are the Python packages installed here. The files are ingested, embedded, compared with guidelines,
    rated and searched. With --profiles the files are left out.

    Starts everything it needs in the data folder and stops it again; the results stay until --clean. Needs no network
    and no key.
    """
    if clean:
        if profiles is not None or keep:
            raise Refusal("--clean only removes: leave out --profiles and --keep")
        return remove(load())
    return run(load(), profiles, keep=keep)
