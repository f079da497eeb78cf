"""``gristmill errors``: the errors of failed jobs, with the commands that retry the jobs."""

from collections.abc import Iterator
from typing import Annotated

import typer

from cli.commands.jobs_options import Stage
from cli.connection import in_connection
from cli.output import Json, print_json, remark
from cli.values import format_count, format_time
from workers.runtime.operate.errors import ErrorView, top_errors
from workers.runtime.refusals import printable


def errors(
    *,
    stage: Stage = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="Maximum number of errors.")] = 20,
    as_json: Json = False,
) -> None:
    """Show the most frequent errors of failed jobs, each with an example and the command that retries its jobs."""
    found = in_connection(lambda conn: top_errors(conn, stage=stage, limit=limit))
    if as_json:
        print_json(found)
        return
    print("\n\n".join("\n".join(_lines(one)) for one in found.errors))
    if not found.errors:
        remark("no job has failed, and none backs off")
    if found.others:
        remark(f"{format_count(found.others, 'other error')}; more: --limit N, or --stage S")
    for table in found.partial:
        remark(f"only the newest failures of {table} are counted")


def _lines(one: ErrorView) -> Iterator[str]:
    """Yield one error as a block of lines, for a terminal of any width."""
    counts = [
        f"{one.failed:,} failed" if one.failed else "",
        f"{one.backing_off:,} backing off" if one.backing_off else "",
    ]
    yield f"{one.stage}: {', '.join(filter(None, counts))}"
    yield printable(f"  {one.cause or '(no error was stored)'}")
    first, last = format_time(one.first_at), format_time(one.last_at)
    yield f"  when:  {first}" + (f" to {last}" if last != first else "")
    yield f"  show:  gristmill jobs show {one.sample_id}"
    if one.retry_command:
        yield printable(f"  retry: {one.retry_command}")
