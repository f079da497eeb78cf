"""``gristmill keys``: the API keys with which clients use the HTTP gateway."""

from typing import Annotated
from uuid import UUID

import typer

from cli.connection import actor, in_connection
from cli.output import Json, print_json, print_table, remark
from cli.values import format_time, parse_expiry
from workers.runtime.operate import api_keys as operate
from workers.runtime.operate.api_keys import SCOPES, ApiKeyView
from workers.runtime.refusals import printable

app = typer.Typer(help="Make, list and revoke the API keys of the gateway's clients.", no_args_is_help=True)


@app.command()
def create(
    *,
    name: Annotated[str, typer.Option(help="Name of the key; the history shows it as `key:NAME`.")],
    scopes: Annotated[str, typer.Option(metavar="SCOPE,SCOPE", help=f"What it allows: {', '.join(SCOPES)}.")],
    acts_for: Annotated[
        UUID | None,
        typer.Option(
            metavar="USER_ID", help="The user (auth.users) for whom it acts. Not with operate, operate:read or admin."
        ),
    ] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="TIME|AGE", help="When it ends: 2030-01-31, or 90d from now. Default: never.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a key and print it. It is not shown again; only its hash is stored."""
    wanted = [scope for part in scopes.split(",") if (scope := part.strip())]
    ends = parse_expiry(expires) if expires else None
    made = in_connection(
        lambda conn: operate.create_key(conn, actor(), name=name, scopes=wanted, acts_for=acts_for, expires_at=ends)
    )
    if as_json:
        print_json({"key": made.key, "secret": made.secret})
        return
    remark(f"key {made.key.name!r} ({made.key.id}); it is not shown again")
    print(made.secret)


@app.command("list")
def list_(
    *,
    ended: Annotated[bool, typer.Option("--all", help="Also the expired and the revoked ones.")] = False,
    as_json: Json = False,
) -> None:
    """List the keys. The keys themselves are never shown, only how each begins."""
    found = in_connection(lambda conn: operate.list_keys(conn, ended=ended))
    if as_json:
        print_json(found)
        return
    print_table(
        ("NAME", "KEY", "STATE", "SCOPES", "ACTS FOR", "LAST USED", "ENDS", "CREATED", "ID"),
        (
            (
                key.name,
                f"{key.hint}…",
                key.state,
                ", ".join(key.scopes),
                key.acts_for or "nobody",
                format_time(key.last_used_at) or "never",
                format_time(key.expires_at) or "never",
                f"{format_time(key.created_at)} by {key.created_by}",
                key.id,
            )
            for key in found
        ),
        keep={"NAME", "KEY"},
    )
    for key in found:
        if key.revoked_at:
            print(printable(_revoked(key)))


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(metavar="KEY", help="Name or id of the key.")],
    reason: Annotated[str | None, typer.Option(help="Why; the list shows it.")] = None,
    as_json: Json = False,
) -> None:
    """Revoke a key for ever. Every gateway refuses it within a second."""
    revoked = in_connection(lambda conn: operate.revoke_key(conn, key, actor(reason)))
    if as_json:
        print_json(revoked)
        return
    print(f"key {revoked.name} ({revoked.id}) is revoked")


def _revoked(key: ApiKeyView) -> str:
    why = f": {key.revoke_reason}" if key.revoke_reason else ""
    return f"{key.name} ({key.id}) was revoked {format_time(key.revoked_at)} by {key.revoked_by}{why}"
