"""``gristmill errors``: why jobs failed, with the command that retries them."""

from collections.abc import Iterator
from typing import Annotated

import typer

from cli.commands.jobs_options import Stage
from cli.connection import ask
from cli.output import Json, print_json, remark
from cli.values import moment
from workers.runtime.operate.errors import ErrorView, top_errors
from workers.runtime.refusals import printable


def errors(
    *,
    stage: Stage = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="Most causes to show.")] = 20,
    as_json: Json = False,
) -> None:
    """Show the top causes of failed jobs by stage, each with a job to look at and the command that retries them."""
    found = ask(lambda conn: top_errors(conn, stage=stage, limit=limit))
    if as_json:
        print_json(found)
        return
    print("\n\n".join("\n".join(_lines(one)) for one in found.errors))
    if not found.errors:
        remark("no job has failed, and none backs off")
    if found.others:
        remark(f"{found.others} other causes; more: --limit N, or --stage S")
    for table in found.partial:
        remark(f"of {table} only the newest failures are counted")


def _lines(one: ErrorView) -> Iterator[str]:
    """Yield one cause as a block, which fits a terminal of any width."""
    counts = [
        f"{one.failed:,} failed" if one.failed else "",
        f"{one.backing_off:,} backing off" if one.backing_off else "",
    ]
    yield f"{one.stage}: {', '.join(filter(None, counts))}"
    yield printable(f"  {one.cause or '(no error was kept)'}")
    first, last = moment(one.first_at), moment(one.last_at)
    yield f"  when:  {first}" + (f" to {last}" if last != first else "")
    yield f"  look:  gristmill jobs show {one.sample_id}"
    if one.retry_command:
        yield printable(f"  retry: {one.retry_command}")
