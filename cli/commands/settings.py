"""``gristmill settings``: what takes effect while everything runs, kept in the database."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from cli.errors import WrongUsageError
from cli.output import Json, print_json, print_table, remark
from cli.values import moment

if TYPE_CHECKING:
    from workers.operations.keyring import Keyring

app = typer.Typer(help="Choose provider and models at run time.", no_args_is_help=True)

Key = Annotated[str, typer.Argument(metavar="KEY", help="Such as ai_provider or llm_model.")]


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the settings; secrets are not shown."""
    from cli.session import in_session
    from workers.operations.system_settings import KNOWN, list_settings

    found = in_session(list_settings)
    if as_json:
        print_json(found)
        return
    if found:
        print_table(
            ("KEY", "VALUE", "SINCE", "MEANING"),
            ((one.key, one.value, moment(one.updated_at), one.description) for one in found),
            keep={"KEY", "SINCE"},
        )
    unset = ", ".join(key for key in KNOWN if key not in {one.key for one in found})
    if unset:
        remark(f"not set: {unset}")


@app.command("set")
def set_(
    key: Key,
    value: Annotated[
        str | None, typer.Argument(metavar="[VALUE]", help="Read from standard input if not given: so for secrets.")
    ] = None,
) -> None:
    """Set KEY; running workers follow within seconds."""
    if value is None:
        value = sys.stdin.readline().strip() if not sys.stdin.isatty() else _asked(key)
    from cli.session import in_session
    from workers.operations.system_settings import put

    keyring = _keyring()
    in_session(lambda session: put(session, key, value, keyring=keyring))
    print(f"{key} is set")


@app.command()
def remove(key: Key) -> None:
    """Unset KEY: what the environment says holds again."""
    from cli.session import in_session
    from workers.operations import system_settings

    if in_session(lambda session: system_settings.remove(session, key)):
        print(f"{key} is removed")
    else:
        remark(f"{key} was not set")


@app.command()
def rotate() -> None:
    """Encrypt every secret anew with the first of GRISTMILL_SECRET_KEYS; then the old keys can go."""
    from cli.session import in_session
    from workers.operations import system_settings

    keyring = _keyring()
    done = in_session(lambda session: system_settings.rotate(session, keyring=keyring))
    print(f"{done} secrets are encrypted with the first key")


@app.command("new-key")
def new_key() -> None:
    """Print a fresh key for GRISTMILL_SECRET_KEYS."""
    from workers.operations import keyring

    print(keyring.new_key())


def _keyring() -> "Keyring":
    from config.settings import keys_of, load
    from workers.operations.keyring import Keyring

    return Keyring(keys_of(load()))


def _asked(key: str) -> str:
    import getpass

    value = getpass.getpass(f"{key}: ")
    if not value:
        raise WrongUsageError(f"{key} must have a value")
    return value
