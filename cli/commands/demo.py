"""``gristmill demo``."""

from pathlib import Path
from typing import Annotated

import typer

from cli.demo.run import delete_results, run_demo
from config.settings import load
from workers.runtime.refusals import Refusal


def demo(
    profiles: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Score these profiles instead: a .jsonl or .csv file with a name per line."),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Do not stop the system afterwards.")] = False,
    clean: Annotated[bool, typer.Option("--clean", help="Only delete the results of earlier demonstrations.")] = False,
) -> int:
    """Score real profiles, ingest two messy files, assess the description of a server; show the results.

    The profiles are the Python packages installed here. The records of the files are embedded, compared with
    guidelines, rated and searched. With --profiles no files are ingested.

    The command starts a system in the data folder and stops it again. The results stay until --clean. It needs no
    network and no API key.
    """
    if clean:
        if profiles is not None or keep:
            raise Refusal("--clean only deletes results: leave out --profiles and --keep")
        return delete_results(load())
    return run_demo(load(), profiles, keep=keep)
