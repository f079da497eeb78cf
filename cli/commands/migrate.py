"""``gristmill migrate``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from cli.addresses import addresses
from cli.output import Json, print_json, print_table
from cli.values import counted
from cli.whereabouts import data_folder
from config.settings import load
from local.logins import FOLDER, Login, make_logins
from migrations.revisions import Position
from migrations.upgrade import (
    DroppedTable,
    Move,
    cancel_unfinished,
    dropped_tables,
    goes_down,
    keep_history,
    live_processes,
    move,
)
from workers.runtime.refusals import Conflict, Failed, Refusal


def migrate(
    *,
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
    new_passwords: Annotated[
        bool,
        typer.Option(
            "--new-passwords", help="Replace passwords that no file has. Processes that use the old ones must restart."
        ),
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Go down although jobs are lost by it, or processes still run.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Bring the database's schema to this release, or to one revision. Run it as the tables' owner."""
    if urls is not None and not roles:
        raise Refusal("--urls says where --roles keeps URLs: give both")
    if new_passwords and not roles:
        raise Refusal("--new-passwords says how --roles treats logins that exist: give both")
    settings = load()
    database_url = addresses(settings).database_url
    dropped = dropped_tables(database_url, to)
    _refuse_losses(database_url, dropped, yes=yes, downwards=goes_down(database_url, to))
    cancel_unfinished(database_url, dropped)
    own, *of_domains = move(database_url, to)
    if own.after.current == own.after.head:
        keep_history(database_url, settings.transitions_retention_days)
    logins: list[Login] = []
    if roles:
        is_embedded = settings.database_url is None
        logins = make_logins(
            database_url,
            urls or data_folder(settings) / FOLDER,
            new_passwords=new_passwords,
            may_have_moved=is_embedded and urls is None,
        )
    if as_json:
        moves = [{"name": one.domain, **_revisions(one)} for one in of_domains]
        print_json({**_revisions(own), "roles": list(map(_shown, logins)), "domains": moves})
    else:
        if "@" not in to:
            _say_moved(own.before, own.after)
        for one in of_domains:
            _say_moved(one.before, one.after, f"domain {one.domain!r} ")
    if logins and not as_json:
        print_table(
            ("KIND", "LOGIN", "STATUS", "URL IN"),
            [(one.kind, one.role, one.state, one.file) for one in logins],
            keep={"URL IN"},
        )
    _refuse_unknown(logins)


def _refuse_losses(database_url: str, dropped: Sequence[DroppedTable], *, yes: bool, downwards: bool) -> None:
    """Raise Conflict before a move down that loses jobs, or that takes the schema away from processes that run."""
    if yes or not downwards:
        return
    if live := live_processes(database_url):
        raise Conflict(f"{', '.join(live)} still run on this schema", remedy="stop them first, or add --yes")
    if dropped:
        lost = "; ".join(
            f"{counted(one.jobs, 'job')} of {one.name} ({one.unfinished:,} of them not ended)" for one in dropped
        )
        raise Conflict(f"this move drops {lost}", remedy="take a backup, then add --yes")


def _shown(login: Login) -> dict[str, object]:
    shown = {"kind": login.kind, "role": login.role, "made": login.made, "file": login.file}
    return shown | ({"problem": login.problem} if login.problem else {})


def _refuse_unknown(logins: list[Login]) -> None:
    """Raise Failed for logins whose passwords are not known here."""
    problems = [one.problem for one in logins if one.problem]
    if problems:
        raise Failed(
            f"{len(problems)} of {len(logins)} logins were left alone: {'; '.join(problems)}. Name the folder that has"
            " their files with --urls; if nothing uses these logins, --new-passwords gives them new passwords"
        )


def _revisions(move: Move) -> dict[str, str | None]:
    return {"before": move.before.current, "after": move.after.current, "head": move.after.head}


def _say_moved(before: Position, after: Position, what: str = "") -> None:
    if not after.known:
        print(f"{what}at {after.current}, of a newer release; nothing to do")
    elif before.current == after.current:
        print(f"{what}already at {after.current or 'base'}")
    else:
        nowhere = "no revision" if what else "an empty database"
        print(f"{what}migrated from {before.current or nowhere} to {after.current or 'base'}")
