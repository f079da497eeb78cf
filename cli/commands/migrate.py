"""``gristmill migrate``."""

from pathlib import Path
from typing import Annotated

import typer

from cli.addresses import addresses
from cli.output import Json, print_json, print_table
from config.settings import load
from local.logins import FOLDER, make_logins
from migrations.revisions import Position
from migrations.upgrade import move
from workers.runtime.refusals import Refusal


def migrate(
    to: Annotated[
        str, typer.Option("--to", metavar="REV", help="Revision to move to; a lower one goes down.")
    ] = "head",
    roles: Annotated[
        bool, typer.Option("--roles", help="Make a login for each kind of process, with no more rights than it needs.")
    ] = False,
    urls: Annotated[
        Path | None,
        typer.Option("--urls", metavar="DIR", help="Where the logins' URLs are kept; `roles` in the data folder."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Bring the database's schema to this release, or to one revision. Run it as the tables' owner."""
    if urls is not None and not roles:
        raise Refusal("--urls says where --roles keeps URLs: give both")
    settings = load()
    database_url = addresses(settings).database_url
    before, after = move(database_url, to)
    logins = []
    if roles:
        logins = make_logins(database_url, urls or settings.data_dir / FOLDER)
    if as_json:
        made = [{"kind": one.kind, "role": one.role, "made": one.made, "file": one.file} for one in logins]
        print_json({"before": before.current, "after": after.current, "head": after.head, "roles": made})
        return
    _say_moved(before, after)
    if logins:
        rows = [(one.kind, one.role, "made" if one.made else "as it was", one.file) for one in logins]
        print_table(("KIND", "LOGIN", "", "URL IN"), rows)


def _say_moved(before: Position, after: Position) -> None:
    if not after.known:
        print(f"at {after.current}, of a newer release; nothing to do")
    elif before.current == after.current:
        print(f"already at {after.current or 'base'}")
    else:
        print(f"migrated from {before.current or 'an empty database'} to {after.current or 'base'}")
