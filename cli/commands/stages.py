"""``gristmill stages``: show stages with their counts; pause and resume them."""

from typing import Annotated

import typer

from cli.completing import complete_stage
from cli.connection import actor, in_connection
from cli.output import Json, print_json, print_table
from cli.stage_view import COUNT_COLUMNS, STAGE_COLUMNS, stage_row
from workers.runtime.operate.stages import list_stages, pause_stage, resume_stage

app = typer.Typer(help="Show every stage with its counts, oldest wait and rate; pause and resume stages.")

StageName = Annotated[str, typer.Argument(metavar="STAGE", autocompletion=complete_stage)]


@app.callback(invoke_without_command=True)
def list_(context: typer.Context, as_json: Json = False) -> None:
    """Show every stage with its counts, oldest wait and rate; pause and resume stages."""
    if context.invoked_subcommand is not None:
        return
    found = in_connection(list_stages)
    if as_json:
        print_json(found)
    else:
        print_table(STAGE_COLUMNS, map(stage_row, found), keep={"STAGE"}, optional=COUNT_COLUMNS)


@app.command()
def pause(stage: StageName) -> None:
    """Dispatch no more jobs of STAGE. Running jobs finish."""
    in_connection(lambda conn: pause_stage(conn, stage, actor()))
    print(f"{stage} is paused; `gristmill stages resume {stage}` opens it again")


@app.command()
def resume(stage: StageName) -> None:
    """Dispatch STAGE again."""
    in_connection(lambda conn: resume_stage(conn, stage, actor()))
    print(f"{stage} is open")
