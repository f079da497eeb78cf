"""Show stages and jobs until Ctrl-C: a table every second on a terminal, elsewhere a line per change."""

import asyncio
import sys
from uuid import UUID

from rich.console import Group
from rich.live import Live
from rich.text import Text

from cli.following import job_events, state_line
from cli.output import make_console, make_table
from cli.stage_view import STAGE_COLUMNS, stage_row
from cli.values import format_duration
from workers.runtime.operate.jobs import JobFilter, JobView, list_jobs
from workers.runtime.operate.stages import StageView, list_stages

_MAX_JOBS = 15
_REFRESH_SECONDS = 1.0


async def watch(database_url: str, wanted: JobFilter) -> None:
    """Show the stages and the newest matching jobs every second, until the command is interrupted."""
    async with job_events(database_url) as events:

        async def newest() -> list[JobView]:
            return await events.ask(lambda conn: list_jobs(conn, wanted, limit=_MAX_JOBS))

        if not sys.stdout.isatty():
            # Jobs that had ended before are not printed.
            printed = {job.id: _line(job) for job in await newest() if job.completed_at}
            while True:
                printed = _print_changes(await newest(), printed)
                await asyncio.sleep(_REFRESH_SECONDS)
        console = make_console()
        with Live(console=console, auto_refresh=False, screen=False) as live:
            while True:
                stages = [one for one in await events.ask(list_stages) if wanted.stage in (None, one.stage)]
                live.update(_view(stages, await newest(), console.width), refresh=True)
                await asyncio.sleep(_REFRESH_SECONDS)


def _view(stages: list[StageView], jobs: list[JobView], width: int) -> Group:
    rows = ((j.id, j.stage, format_duration(j.age), state_line(j)) for j in jobs)
    return Group(
        make_table(STAGE_COLUMNS, map(stage_row, stages), width=width),
        Text(),
        make_table(("ID", "STAGE", ">AGE", "JOB STATE"), rows, width=width),
        Text("\nCtrl-C ends watching", style="dim"),
    )


def _print_changes(jobs: list[JobView], printed: dict[UUID, str]) -> dict[UUID, str]:
    """Print a line for each job with another state than the one printed last; return the lines of now."""
    now = {job.id: _line(job) for job in reversed(jobs)}
    for job_id, line in now.items():
        if printed.get(job_id) != line:
            print(line, flush=True)
    return now


def _line(job: JobView) -> str:
    return f"{job.id} {job.stage} {state_line(job)}"
