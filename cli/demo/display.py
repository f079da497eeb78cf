"""Show the progress of a step: a bar on a terminal, lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cli.demo.following import StepProgress
from cli.output import make_console
from cli.values import format_count

_PRINT_SECONDS = 2.0


@contextmanager
def step_display(title: str) -> Iterator[Callable[[StepProgress], None]]:
    """Yield a function that shows the progress of a step."""
    if sys.stdout.isatty():
        with _bar(title) as show:
            yield show
    else:
        yield _line_printer(title)


@contextmanager
def _bar(title: str) -> Iterator[Callable[[StepProgress], None]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=make_console()) as bar:
        task = bar.add_task(title, total=None, note="")

        def show(seen: StepProgress) -> None:
            bar.update(task, total=seen.total, completed=seen.ended, note=_counts(seen))

        yield show


def _line_printer(title: str) -> Callable[[StepProgress], None]:
    """Return a function that prints a line every two seconds and at the end."""
    printed_at, printed = time.monotonic(), -1

    def show(seen: StepProgress) -> None:
        nonlocal printed_at, printed
        due = seen.ended == seen.total or time.monotonic() - printed_at > _PRINT_SECONDS
        if due and seen.total and seen.ended != printed:
            printed_at, printed = time.monotonic(), seen.ended
            print(", ".join(filter(None, (f"{title}: {seen.ended} of {seen.total}", _counts(seen)))), flush=True)

    return show


def _counts(seen: StepProgress) -> str:
    """Return the counts that are not zero."""
    parts = (
        (seen.failed, f"{seen.failed} failed"),
        (seen.cached, f"{seen.cached} from earlier answers"),
        (seen.retries, format_count(seen.retries, "retry", "retries")),
    )
    return ", ".join(text for count, text in parts if count)
