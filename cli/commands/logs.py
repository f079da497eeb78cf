"""``gristmill logs``: what the roles that `up` started have written."""

from collections.abc import Iterable
from typing import Annotated

import typer

from cli.completing import roles
from cli.output import Json, print_json
from cli.whereabouts import logs_folder
from config.settings import load
from local.logs import LogLine, choose_roles, follow_logs, last_lines
from workers.runtime.refusals import Refusal, printable


def logs(
    role: Annotated[
        str | None,
        typer.Argument(metavar="[ROLE]", help="worker-1, worker (all of them), dispatcher, …", autocompletion=roles),
    ] = None,
    *,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with what comes, until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, max=100_000, help="Last lines of each role.")] = 50,
    as_json: Json = False,
) -> None:
    """Show what the roles started by `up` have written, the servers' own logs included.

    The logs lie in the data folder, for its owner alone. Past 10 MB a log begins anew and the former one is kept.
    """
    folder = logs_folder(load())
    if follow:
        if as_json:
            raise Refusal("--json shows what is there: leave out --follow")
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
