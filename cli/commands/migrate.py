"""``gristmill migrate``."""

from typing import Annotated

import typer

from cli.output import Json, print_json


def migrate(
    to: Annotated[
        str, typer.Option("--to", metavar="REV", help="Revision to move to; a lower one goes down.")
    ] = "head",
    as_json: Json = False,
) -> None:
    """Bring the database's schema to this release, or to one revision."""
    from cli.addresses import addresses
    from cli.schema import move
    from config.settings import load

    before, after = move(addresses(load()).database_url, to)
    if as_json:
        print_json({"before": before.current, "after": after.current, "head": after.head})
    elif not after.known:
        print(f"at {after.current}, of a newer release; nothing to do")
    elif before.current == after.current:
        print(f"already at {after.current or 'base'}")
    else:
        print(f"migrated from {before.current or 'an empty database'} to {after.current or 'base'}")
