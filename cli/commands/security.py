"""``gristmill security``: whether services must sign whom they speak for, and which login is one user."""

from enum import StrEnum
from typing import Annotated
from uuid import UUID

import typer

from cli.connection import actor, ask
from cli.output import Json, print_json, print_table, remark
from cli.values import moment, parse_age
from workers.runtime.operate import security as operate
from workers.runtime.operate.security import SecurityView

app = typer.Typer(help="Say whom a service may speak for. Run as the tables' owner.", no_args_is_help=True)

Role = Annotated[str, typer.Argument(metavar="ROLE", help="A login of Postgres.")]
User = Annotated[UUID, typer.Argument(metavar="USER_ID", help="The user's id.")]


class Switch(StrEnum):
    """On or off."""

    on = "on"
    off = "off"


@app.command()
def status(as_json: Json = False) -> None:
    """Show whether strict mode is on, the valid keys and the bound logins. Keys themselves are shown nowhere."""
    found = ask(operate.show_security)
    if as_json:
        print_json(found)
        return
    _print(found)


@app.command()
def strict(switch: Annotated[Switch, typer.Argument(metavar="on|off", help="Whether services must sign.")]) -> None:
    """Turn strict mode on or off: whether `gristmill.user_id` of a service counts only with a signature."""
    ask(lambda conn: operate.set_strict(conn, actor(), strict=switch is Switch.on))
    print(f"strict mode is {switch}")


@app.command("new-key")
def make_key(
    old_keys_for: Annotated[
        str | None, typer.Option("--old-keys-for", metavar="AGE", help="End the other keys after so long, such as 1h.")
    ] = None,
) -> None:
    """Make a key that signs users, and print it once: give it to the process that knows who a person is."""
    span = parse_age(old_keys_for) if old_keys_for else None
    made = ask(lambda conn: operate.make_key(conn, actor(), old_keys_for=span))
    remark(f"key {made.id}, in hex; it is shown this once")
    print(made.secret.hex())


@app.command("remove-key")
def remove(key: Annotated[UUID, typer.Argument(metavar="KEY", help="Its id.")]) -> None:
    """End a key at once. What it signed counts no more."""
    ask(lambda conn: operate.remove_key(conn, key, actor()))
    print(f"key {key} is removed")


@app.command()
def sign(
    user: User,
    valid_for: Annotated[str, typer.Option("--for", metavar="AGE", help="How long it is valid, up to 1d.")] = "1h",
) -> None:
    """Print a signature for one user, made with the newest key."""
    span = parse_age(valid_for)
    print(ask(lambda conn: operate.sign_user(conn, user, span=span)))


@app.command("bind-role")
def bind(role: Role, user: User) -> None:
    """Make a login one user, whatever it says of itself: a role per tenant."""
    ask(lambda conn: operate.bind_role(conn, role, user, actor()))
    print(f"role {role} is user {user}")


@app.command("unbind-role")
def unbind(role: Role) -> None:
    """Let a login say again whom it speaks for."""
    ask(lambda conn: operate.unbind_role(conn, role, actor()))
    print(f"role {role} is bound to nobody")


def _print(found: SecurityView) -> None:
    since = f", {moment(found.changed_at)} by {found.changed_by}" if found.changed_at else ""
    print(f"strict mode is {'on' if found.strict else 'off'}{since}\n")
    if found.keys is None:
        print("keys: this login may not see them, the tables' owner may")
    elif found.keys:
        keys = [(one.id, moment(one.created_at), moment(one.expires_at)) for one in found.keys]
        print_table(("KEY", "CREATED", "ENDS"), keys, keep={"KEY"})
    else:
        print("no keys; `gristmill security new-key` makes one")
    print()
    if found.roles:
        rows = ((one.role, one.user_id, "" if one.exists else "gone") for one in found.roles)
        print_table(("LOGIN", "USER", ""), rows, keep={"USER"})
    else:
        print("no login is bound to a user")
