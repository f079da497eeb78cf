"""``gristmill migrate``: migrate the schema, make the logins."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from cli.output import Json, print_json, print_table
from cli.running_system import find_data_dir
from cli.server_urls import find_server_urls
from cli.values import format_count
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
            "--to", metavar="REV", help="Target revision; a lower one migrates down. DOMAIN@REV for a domain."
        ),
    ] = "head",
    roles: Annotated[
        bool, typer.Option("--roles", help="Make a login for each kind of process, with only the rights that it needs.")
    ] = False,
    urls: Annotated[
        Path | None,
        typer.Option(
            "--urls", metavar="DIR", help="Folder for the URLs of the logins. Default: `roles` in the data folder."
        ),
    ] = None,
    new_passwords: Annotated[
        bool,
        typer.Option(
            "--new-passwords",
            help="Replace passwords that are in no file. Processes that use the old ones must restart.",
        ),
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Migrate down although jobs are lost or processes still run.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Migrate the schema to this release, or to one revision. Run it as the owner of the tables."""
    if urls is not None and not roles:
        raise Refusal("--urls needs --roles: it is the folder for the URLs of the logins")
    if new_passwords and not roles:
        raise Refusal("--new-passwords needs --roles: it changes the logins that --roles makes")
    settings = load()
    database_url = find_server_urls(settings).database_url
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
            urls or find_data_dir(settings) / FOLDER,
            new_passwords=new_passwords,
            may_have_moved=is_embedded and urls is None,
        )
    if as_json:
        moves = [{"name": one.domain, **_revisions(one)} for one in of_domains]
        print_json({**_revisions(own), "roles": list(map(_login_json, logins)), "domains": moves})
    else:
        if "@" not in to:
            _print_move(own.before, own.after)
        for one in of_domains:
            _print_move(one.before, one.after, f"domain {one.domain!r} ")
    if logins and not as_json:
        print_table(
            ("KIND", "LOGIN", "STATUS", "URL IN"),
            [(one.kind, one.role, one.state, one.file) for one in logins],
            keep={"URL IN"},
        )
    _refuse_unknown(logins)


def _refuse_losses(database_url: str, dropped: Sequence[DroppedTable], *, yes: bool, downwards: bool) -> None:
    """Raise Conflict before a migration down that loses jobs, or that running processes would not survive."""
    if yes or not downwards:
        return
    if live := live_processes(database_url):
        raise Conflict(f"{', '.join(live)} still run on this schema", remedy="stop them first, or add --yes")
    if dropped:
        lost = "; ".join(
            f"{format_count(one.jobs, 'job')} of {one.name} ({one.unfinished:,} of them not ended)" for one in dropped
        )
        raise Conflict(f"this migration drops {lost}", remedy="take a backup, then add --yes")


def _login_json(login: Login) -> dict[str, object]:
    values = {"kind": login.kind, "role": login.role, "made": login.made, "file": login.file}
    return values | ({"problem": login.problem} if login.problem else {})


def _refuse_unknown(logins: list[Login]) -> None:
    """Raise Failed if the passwords of some logins are not known here."""
    problems = [one.problem for one in logins if one.problem]
    if problems:
        raise Failed(
            f"{len(problems)} of {len(logins)} logins were not changed: {'; '.join(problems)}. Name the folder of their"
            " files with --urls; if nothing uses these logins, --new-passwords gives them new passwords"
        )


def _revisions(move: Move) -> dict[str, str | None]:
    return {"before": move.before.current, "after": move.after.current, "head": move.after.head}


def _print_move(before: Position, after: Position, what: str = "") -> None:
    if not after.known:
        print(f"{what}at {after.current}, of a newer release; nothing to do")
    elif before.current == after.current:
        print(f"{what}already at {after.current or 'base'}")
    else:
        start = "no revision" if what else "an empty database"
        print(f"{what}migrated from {before.current or start} to {after.current or 'base'}")
