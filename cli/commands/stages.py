"""``gristmill stages``: what waits, runs and failed; pause and resume."""

from typing import Annotated

import typer

from cli.completing import stages
from cli.connection import actor, ask
from cli.output import Json, print_json, print_table
from cli.stage_view import COUNTS, STAGE_COLUMNS, stage_row
from workers.runtime.operate.stages import list_stages, pause_stage, resume_stage

app = typer.Typer(help="Show every stage with its counts, oldest wait and rate; pause and resume them.")

StageName = Annotated[str, typer.Argument(metavar="STAGE", autocompletion=stages)]


@app.callback(invoke_without_command=True)
def list_(context: typer.Context, as_json: Json = False) -> None:
    """Show every stage with its counts, oldest wait and rate; pause and resume them."""
    if context.invoked_subcommand is not None:
        return
    found = ask(list_stages)
    if as_json:
        print_json(found)
    else:
        print_table(STAGE_COLUMNS, map(stage_row, found), keep={"STAGE"}, may_go=COUNTS)


@app.command()
def pause(stage: StageName) -> None:
    """Dispatch nothing more of STAGE; jobs that run already finish."""
    ask(lambda conn: pause_stage(conn, stage, actor()))
    print(f"{stage} is paused; `gristmill stages resume {stage}` opens it again")


@app.command()
def resume(stage: StageName) -> None:
    """Dispatch STAGE again."""
    ask(lambda conn: resume_stage(conn, stage, actor()))
    print(f"{stage} is open")
