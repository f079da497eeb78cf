"""``gristmill stages``: what waits, runs and failed; pause and resume."""

from typing import Annotated

import typer

from cli.completing import stages
from cli.output import Json, print_json, print_table

app = typer.Typer(help="Show every stage with its counts, oldest wait and rate; pause and resume them.")

StageName = Annotated[str, typer.Argument(metavar="STAGE", autocompletion=stages)]


@app.callback(invoke_without_command=True)
def list_(context: typer.Context, as_json: Json = False) -> None:
    """Show every stage with its counts, oldest wait and rate; pause and resume them."""
    if context.invoked_subcommand is not None:
        return
    from cli.connection import ask
    from cli.stage_view import STAGE_COLUMNS, stage_row
    from workers.runtime.store.stages import list_stages

    stages = ask(list_stages)
    if as_json:
        print_json(stages)
    else:
        print_table(STAGE_COLUMNS, map(stage_row, stages), keep={"STAGE"})


@app.command()
def pause(stage: StageName) -> None:
    """Dispatch nothing more of STAGE; jobs that run already finish."""
    from cli.connection import ask, who
    from workers.runtime.database import Raw
    from workers.runtime.operate.known import check_stage
    from workers.runtime.store.intervene import pause as pause_stage

    async def run(conn: Raw) -> None:
        await check_stage(conn, stage)
        await pause_stage(conn, stage, by=who())

    ask(run)
    print(f"{stage} is paused; `gristmill stages resume {stage}` opens it again")


@app.command()
def resume(stage: StageName) -> None:
    """Dispatch STAGE again."""
    from cli.connection import ask
    from workers.runtime.database import Raw
    from workers.runtime.operate.known import check_stage
    from workers.runtime.store.intervene import resume as resume_stage

    async def run(conn: Raw) -> None:
        await check_stage(conn, stage)
        await resume_stage(conn, stage)

    ask(run)
    print(f"{stage} is open")
