"""Progress of a round: a bar on a terminal, lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from cli.demo.following import Progress
from cli.output import console

_QUIET_SECONDS = 2.0


@contextmanager
def progress(title: str) -> Iterator[Callable[[Progress], None]]:
    """Yield what shows a round's progress."""
    if sys.stdout.isatty():
        with _bar(title) as show:
            yield show
    else:
        yield _lines(title)


@contextmanager
def _bar(title: str) -> Iterator[Callable[[Progress], None]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Bar(*columns, console=console()) as bar:
        task = bar.add_task(title, total=None, note="")

        def show(seen: Progress) -> None:
            bar.update(task, total=seen.total, completed=seen.ended, note=note(seen))

        yield show


def _lines(title: str) -> Callable[[Progress], None]:
    """Return what prints a line at the end, and now and then on the way."""
    told_at, told = time.monotonic(), -1

    def show(seen: Progress) -> None:
        nonlocal told_at, told
        due = seen.ended == seen.total or time.monotonic() - told_at > _QUIET_SECONDS
        if due and seen.total and seen.ended != told:
            told_at, told = time.monotonic(), seen.ended
            print(", ".join(filter(None, (f"{title}: {seen.ended} of {seen.total}", note(seen)))), flush=True)

    return show


def note(seen: Progress) -> str:
    """Return what is worth saying beside the count."""
    parts = {"failed": seen.failed, "from earlier answers": seen.cached, "retries": seen.retries}
    return ", ".join(f"{count} {name}" for name, count in parts.items() if count)
