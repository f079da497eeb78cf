"""``gristmill security``: whether services must sign for their users, and which login belongs to one user."""

from enum import StrEnum
from typing import Annotated
from uuid import UUID

import typer

from cli.connection import actor, in_connection
from cli.output import Json, print_json, print_table, remark
from cli.values import format_time, parse_age
from workers.runtime.operate import security as operate
from workers.runtime.operate.security import SecurityView

app = typer.Typer(
    help="Control for which users a service may act. Run it as the owner of the tables.", no_args_is_help=True
)

Role = Annotated[str, typer.Argument(metavar="ROLE", help="A login of Postgres.")]
User = Annotated[UUID, typer.Argument(metavar="USER_ID", help="Id of the user.")]


class Switch(StrEnum):
    """On or off."""

    on = "on"
    off = "off"


@app.command()
def status(as_json: Json = False) -> None:
    """Show whether strict mode is on, the ids of the valid keys, and the bound logins. The keys are never shown."""
    found = in_connection(operate.show_security)
    if as_json:
        print_json(found)
        return
    _print(found)


@app.command()
def strict(switch: Annotated[Switch, typer.Argument(metavar="on|off", help="On: services must sign.")]) -> None:
    """Turn strict mode on or off. If it is on, `gristmill.user_id` of a service needs a signature."""
    in_connection(lambda conn: operate.set_strict(conn, actor(), strict=switch is Switch.on))
    print(f"strict mode is {switch}")


@app.command("new-key")
def make_key(
    old_keys_for: Annotated[
        str | None,
        typer.Option("--old-keys-for", metavar="AGE", help="The other keys end after this time, for example 1h."),
    ] = None,
) -> None:
    """Make a key for signatures and print it once. Give it to the process that authenticates the users."""
    span = parse_age(old_keys_for) if old_keys_for else None
    made = in_connection(lambda conn: operate.make_key(conn, actor(), old_keys_for=span))
    remark(f"key {made.id}, in hex; it is not shown again")
    print(made.secret.hex())


@app.command("remove-key")
def remove(key: Annotated[UUID, typer.Argument(metavar="KEY", help="Id of the key.")]) -> None:
    """End a key at once. Its signatures are no longer valid."""
    in_connection(lambda conn: operate.remove_key(conn, key, actor()))
    print(f"key {key} is removed")


@app.command()
def sign(
    user: User,
    valid_for: Annotated[
        str, typer.Option("--for", metavar="AGE", help="How long the signature is valid, up to 1d.")
    ] = "1h",
) -> None:
    """Print a signature for one user, made with the newest key."""
    span = parse_age(valid_for)
    print(in_connection(lambda conn: operate.sign_user(conn, user, span=span)))


@app.command("bind-role")
def bind(role: Role, user: User) -> None:
    """Bind a login to one user: it can act for no other user. Use it for a login per tenant."""
    in_connection(lambda conn: operate.bind_role(conn, role, user, actor()))
    print(f"role {role} is bound to user {user}")


@app.command("unbind-role")
def unbind(role: Role) -> None:
    """Unbind a login: it names its users itself again."""
    in_connection(lambda conn: operate.unbind_role(conn, role, actor()))
    print(f"role {role} is bound to no user")


def _print(found: SecurityView) -> None:
    since = f", {format_time(found.changed_at)} by {found.changed_by}" if found.changed_at else ""
    print(f"strict mode is {'on' if found.strict else 'off'}{since}\n")
    if found.keys is None:
        print("keys: this login may not see them; the owner of the tables may")
    elif found.keys:
        keys = [(one.id, format_time(one.created_at), format_time(one.expires_at)) for one in found.keys]
        print_table(("KEY", "CREATED", "ENDS"), keys, keep={"KEY"})
    else:
        print("no keys; `gristmill security new-key` makes one")
    print()
    if found.roles:
        rows = ((one.role, one.user_id, "" if one.exists else "gone") for one in found.roles)
        print_table(("LOGIN", "USER", ""), rows, keep={"USER"})
    else:
        print("no login is bound to a user")
