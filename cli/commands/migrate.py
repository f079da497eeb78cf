"""``gristmill migrate``."""

from pathlib import Path
from typing import Annotated

import typer

from cli.addresses import addresses
from cli.output import Json, print_json, print_table
from config.settings import load
from local.logins import FOLDER, make_logins
from migrations.revisions import Position
from migrations.upgrade import Move, move
from workers.runtime.refusals import Refusal


def migrate(
    to: Annotated[
        str,
        typer.Option(
            "--to", metavar="REV", help="Revision to move to; a lower one goes down. DOMAIN@REV for a domain."
        ),
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
    own, *of_domains = move(database_url, to)
    logins = []
    if roles:
        logins = make_logins(database_url, urls or settings.data_dir / FOLDER)
    if as_json:
        made = [{"kind": one.kind, "role": one.role, "made": one.made, "file": one.file} for one in logins]
        print_json(
            {**_shown(own), "roles": made, "domains": [{"name": one.domain, **_shown(one)} for one in of_domains]}
        )
        return
    if "@" not in to:
        _say_moved(own.before, own.after)
    for one in of_domains:
        _say_moved(one.before, one.after, f"domain {one.domain!r} ")
    if logins:
        rows = [(one.kind, one.role, "made" if one.made else "as it was", one.file) for one in logins]
        print_table(("KIND", "LOGIN", "", "URL IN"), rows)


def _shown(move: Move) -> dict[str, str | None]:
    return {"before": move.before.current, "after": move.after.current, "head": move.after.head}


def _say_moved(before: Position, after: Position, what: str = "") -> None:
    if not after.known:
        print(f"{what}at {after.current}, of a newer release; nothing to do")
    elif before.current == after.current:
        print(f"{what}already at {after.current or 'base'}")
    else:
        nowhere = "no revision" if what else "an empty database"
        print(f"{what}migrated from {before.current or nowhere} to {after.current or 'base'}")
