"""Follow the job of a file: a bar on a terminal, lines elsewhere; at the end, the skipped rows and the reasons."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from cli.following import job_events
from cli.output import make_console, status_text
from workers.ingestion.outcome_lines import file_problems, skipped_lines, warning_lines
from workers.ingestion.progress import IngestionProgress, ingestion_progress
from workers.runtime.refusals import Failed, printable

_PRINT_SECONDS = 2.0
_CHECK_SECONDS = 1.0


async def follow_ingestion(
    database_url: str, job_id: UUID, *, show: Callable[[IngestionProgress], None]
) -> IngestionProgress:
    """Return the job when it has ended; call ``show`` with its progress. It waits while Postgres restarts."""
    async with job_events(database_url) as events:
        while True:
            seen = await events.ask(lambda conn: ingestion_progress(conn, job_id))
            if seen is None:
                raise Failed(f"job {job_id} does not exist (any more): was its project deleted?")
            show(seen)
            if seen.ended:
                return seen
            await events.wait([job_id], _CHECK_SECONDS)


@contextmanager
def ingestion_display() -> Iterator[Callable[[IngestionProgress], None]]:
    """Yield a function that shows the progress of a job."""
    if not sys.stderr.isatty():
        yield _line_printer()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=make_console(stderr=True)) as bar:
        task = bar.add_task("waiting", total=100, note="")
        yield lambda seen: bar.update(task, description=_step_name(seen), completed=_percent(seen), note=_counts(seen))


def _line_printer() -> Callable[[IngestionProgress], None]:
    """Return a function that prints a line at every change of state, and every two seconds."""
    printed_at, printed = 0.0, ""

    def show(seen: IngestionProgress) -> None:
        nonlocal printed_at, printed
        if _step_name(seen) != printed or time.monotonic() - printed_at > _PRINT_SECONDS:
            printed_at, printed = time.monotonic(), _step_name(seen)
            print(f"{_step_name(seen)}: {_percent(seen)} %, {_counts(seen)}", file=sys.stderr, flush=True)

    return show


def _step_name(seen: IngestionProgress) -> str:
    """Return the current step of the job; its status if it has ended."""
    if seen.ended:
        return status_text(seen.status)
    waiting = {"PENDING": "waiting", "QUEUED_FOR_VEC": "waiting to be embedded"}
    step = waiting.get(seen.status, "ingesting" if seen.loading else "embedding")
    return printable(f"{step} ({seen.wait_reason})") if seen.wait_reason else step


def _percent(seen: IngestionProgress) -> int:
    """Return the progress of the current step; 100 for a completed job."""
    if seen.completed:
        return 100
    if seen.loading or not seen.saved:
        return seen.progress
    return seen.embedded * 100 // seen.saved


def _counts(seen: IngestionProgress) -> str:
    """Return the counts so far."""
    embedded = "" if seen.loading else f", {seen.embedded:,} embedded"
    return f"{seen.total:,} read, {seen.saved:,} saved, {seen.skipped:,} skipped{embedded}"


def ingestion_problems(seen: IngestionProgress) -> list[str]:
    """Return what a person must see first: most rows were skipped, or rows are cut."""
    return file_problems(
        total=seen.total, skipped=seen.skipped, details=seen.details, warnings=seen.warnings, read_as=seen.read_as
    )


def ingestion_lines(seen: IngestionProgress) -> list[str]:
    """Return the result as lines: the problems, the counts, each reason with the first rows that it applies to."""
    return [
        *(f"WARNING: {problem}" for problem in ingestion_problems(seen)),
        f"{status_text(seen.status)}: {_counts(seen)}",
        *(f"  {line}" for line in skipped_lines(seen.details, seen.read_as)),
        *(f"  {line}" for line in warning_lines(seen.warnings, seen.read_as)),
        *([f"  {seen.error}"] if seen.error else []),
    ]
