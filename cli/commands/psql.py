"""``gristmill psql``: open the database in psql, without a password on the command line."""

import os
import shutil
from typing import Annotated

import typer

from cli.running_system import find_data_dir
from cli.server_urls import find_server_urls
from config.settings import load
from local.logins import FOLDER, address_and_password, known_urls
from workers.runtime.operate.logins import GROUPS
from workers.runtime.refusals import Failed, Refusal


def psql(
    kind: Annotated[
        str | None,
        typer.Option("--as", metavar="KIND", help="Use the login of: worker, dispatcher, gateway, operator, service."),
    ] = None,
) -> None:
    """Open the database in psql, as its owner or with the login of one kind of process."""
    settings = load()
    url = find_server_urls(settings).database_url
    if kind is not None:
        if kind not in GROUPS:
            raise Refusal(f"--as must be one of {', '.join(GROUPS)}, got {kind!r}")
        folder = find_data_dir(settings) / FOLDER
        known = known_urls(url, folder)
        if kind not in known:
            raise Failed(f"{folder} has no login of a {kind} for this database: `gristmill migrate --roles` makes them")
        url = known[kind]
    program = shutil.which("psql")
    if program is None:
        raise Failed("psql is not installed: it comes with the package postgresql-client (Debian) or libpq (Homebrew)")
    address, password = address_and_password(url)
    os.execve(program, [program, address], os.environ | ({"PGPASSWORD": password} if password else {}))  # noqa: S606
