"""Follow the job of a file: a bar on a terminal, lines elsewhere, what was skipped and why at the end."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from cli.following import job_events
from cli.output import console, status_text
from workers.ingestion.outcome_lines import file_problems, skipped_lines, warning_lines
from workers.ingestion.progress import IngestionProgress as Seen
from workers.ingestion.progress import ingestion_progress
from workers.runtime.refusals import Failed, printable

_QUIET_SECONDS = 2.0
_LOOK_SECONDS = 1.0


async def follow(database_url: str, job_id: UUID, *, show: Callable[[Seen], None]) -> Seen:
    """Return the job once it has ended; ``show`` is told where it stands. A restart of Postgres is waited for."""
    async with job_events(database_url) as events:
        while True:
            seen = await events.ask(lambda conn: ingestion_progress(conn, job_id))
            if seen is None:
                raise Failed(f"job {job_id} does not exist (any more): was its project deleted?")
            show(seen)
            if seen.ended:
                return seen
            await events.wait([job_id], _LOOK_SECONDS)


@contextmanager
def progress() -> Iterator[Callable[[Seen], None]]:
    """Yield what shows where a job stands."""
    if not sys.stderr.isatty():
        yield _lines()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console(stderr=True)) as bar:
        task = bar.add_task("waiting", total=100, note="")
        yield lambda seen: bar.update(task, description=title(seen), completed=percent(seen), note=note(seen))


def _lines() -> Callable[[Seen], None]:
    """Return what prints a line now and then, and at every change of state."""
    told_at, told = 0.0, ""

    def show(seen: Seen) -> None:
        nonlocal told_at, told
        if title(seen) != told or time.monotonic() - told_at > _QUIET_SECONDS:
            told_at, told = time.monotonic(), title(seen)
            print(f"{title(seen)}: {percent(seen)} %, {note(seen)}", file=sys.stderr, flush=True)

    return show


def title(seen: Seen) -> str:
    """Return what is being done."""
    if seen.ended:
        return status_text(seen.status)
    waiting = {"PENDING": "waiting", "QUEUED_FOR_VEC": "waiting to be embedded"}
    doing = waiting.get(seen.status, "ingesting" if seen.loading else "embedding")
    return printable(f"{doing} ({seen.wait_reason})") if seen.wait_reason else doing


def percent(seen: Seen) -> int:
    """Return how much of what is being done is done; the end of a job is all of it."""
    if seen.completed:
        return 100
    if seen.loading or not seen.saved:
        return seen.progress
    return seen.embedded * 100 // seen.saved


def note(seen: Seen) -> str:
    """Return the counts so far."""
    embedded = "" if seen.loading else f", {seen.embedded:,} embedded"
    return f"{seen.total:,} read, {seen.saved:,} saved, {seen.skipped:,} skipped{embedded}"


def worst(seen: Seen) -> list[str]:
    """Return what a person must see first: most rows were skipped, or rows are cut."""
    return file_problems(
        total=seen.total, skipped=seen.skipped, details=seen.details, warnings=seen.warnings, read_as=seen.read_as
    )


def summary(seen: Seen) -> list[str]:
    """Return what became of the file, line by line: problems first, the counts, each reason with its first lines."""
    return [
        *(f"WARNING: {problem}" for problem in worst(seen)),
        f"{status_text(seen.status)}: {note(seen)}",
        *(f"  {line}" for line in skipped_lines(seen.details, seen.read_as)),
        *(f"  {line}" for line in warning_lines(seen.warnings, seen.read_as)),
        *([f"  {seen.error}"] if seen.error else []),
    ]
