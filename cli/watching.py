"""Show what is going on, until Ctrl-C: a table that renews itself on a terminal, lines of change elsewhere."""

import asyncio
import sys
from uuid import UUID

from rich.console import Group
from rich.live import Live
from rich.text import Text

from cli.following import job_events, state_line
from cli.output import console, table
from cli.stage_view import STAGE_COLUMNS, stage_row
from cli.values import duration
from workers.runtime.operate.jobs import JobFilter, JobView, list_jobs
from workers.runtime.operate.stages import StageView, list_stages

_SHOWN = 15
_SECONDS = 1.0


async def watch(database_url: str, wanted: JobFilter) -> None:
    """Show the stages and the newest matching jobs every second, for ever."""
    async with job_events(database_url) as events:

        async def newest() -> list[JobView]:
            return await events.ask(lambda conn: list_jobs(conn, wanted, limit=_SHOWN))

        if not sys.stdout.isatty():
            # What had ended before is no news.
            told = {job.id: _line(job) for job in await newest() if job.completed_at}
            while True:
                told = _tell_changes(await newest(), told)
                await asyncio.sleep(_SECONDS)
        shown = console()
        with Live(console=shown, auto_refresh=False, screen=False) as live:
            while True:
                stages = [one for one in await events.ask(list_stages) if wanted.stage in (None, one.stage)]
                live.update(_view(stages, await newest(), shown.width), refresh=True)
                await asyncio.sleep(_SECONDS)


def _view(stages: list[StageView], jobs: list[JobView], width: int) -> Group:
    rows = ((j.id, j.stage, duration(j.age), state_line(j)) for j in jobs)
    return Group(
        table(STAGE_COLUMNS, map(stage_row, stages), width=width),
        Text(),
        table(("ID", "STAGE", ">AGE", "IS"), rows, width=width),
        Text("\nCtrl-C ends watching", style="dim"),
    )


def _tell_changes(jobs: list[JobView], told: dict[UUID, str]) -> dict[UUID, str]:
    """Print a line for each job whose state is not the one told last; return what is told now."""
    now = {job.id: _line(job) for job in reversed(jobs)}
    for job_id, line in now.items():
        if told.get(job_id) != line:
            print(line, flush=True)
    return now


def _line(job: JobView) -> str:
    return f"{job.id} {job.stage} {state_line(job)}"
