"""``gristmill logs``: the logs of the roles that `up` started."""

from collections.abc import Iterable
from typing import Annotated

import typer

from cli.completing import complete_role
from cli.output import Json, print_json
from cli.running_system import find_logs_dir
from config.settings import load
from local.logs import LogLine, choose_roles, follow_logs, last_lines
from workers.runtime.refusals import Refusal, printable


def logs(
    role: Annotated[
        str | None,
        typer.Argument(
            metavar="[ROLE]", help="worker-1, worker (all of them), dispatcher, …", autocompletion=complete_role
        ),
    ] = None,
    *,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Continue with new lines until Ctrl-C.")] = False,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=1, max=100_000, help="Number of last lines of each role.")
    ] = 50,
    as_json: Json = False,
) -> None:
    """Show the logs of the roles that `up` started, and those of the servers.

    The logs are in the data folder; only its owner can read them. When a log exceeds 10 MB, it becomes NAME.log.1 and
    a new log begins.
    """
    folder = find_logs_dir(load())
    if follow:
        if as_json:
            raise Refusal("--json shows the present lines only: leave out --follow")
        _print(follow_logs(folder, role, lines=lines), named=role is None or len(choose_roles(folder, role)) > 1)
        return
    names = choose_roles(folder, role)
    found = [line for name in names for line in last_lines(folder, name, lines)]
    if as_json:
        print_json(found)
    else:
        _print(found, named=len(names) > 1)


def _print(found: Iterable[LogLine], *, named: bool) -> None:
    for one in found:
        print(f"{f'{one.role:<10} | ' if named else ''}{printable(one.line)}", flush=True)
