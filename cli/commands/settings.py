"""``gristmill settings``: what takes effect while everything runs, kept in the database."""

import getpass
import sys
from typing import Annotated

import typer

from cli.connection import actor
from cli.output import Json, print_json, print_table, remark
from cli.session import in_session
from cli.values import moment
from config.settings import keys_of, load
from workers.llm.operate.providers import rotate_keys
from workers.operations import keyring, system_settings
from workers.operations.system_settings import KNOWN, require_known
from workers.runtime.database import Transaction
from workers.runtime.refusals import Refusal

app = typer.Typer(help="Choose provider and models at run time.", no_args_is_help=True)

Key = Annotated[str, typer.Argument(metavar="KEY", help="Such as ai_provider or llm_model.")]


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the settings; secrets are not shown."""
    found = in_session(system_settings.list_settings)
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
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="KEY [VALUE] | KEY[=VALUE] …",
            help="Several take effect together. A value that is not given is read from standard input: so for secrets.",
        ),
    ],
) -> None:
    """Set KEY to VALUE, or several of KEY=VALUE at once; running workers follow within seconds."""
    values = _values(words)
    keys = _keyring()
    unset = in_session(lambda session: system_settings.put(session, values, keyring=keys, actor=actor()))
    for key in values:
        print(f"{key} is set")
    for key in unset:
        remark(f"{key} is removed: it was meant for another provider")


@app.command()
def remove(key: Key) -> None:
    """Unset KEY: what the environment says holds again."""
    gone = in_session(lambda session: system_settings.remove(session, key, actor=actor()))
    for one in gone:
        print(f"{one} is removed")
    if key not in gone:
        remark(f"{key} was not set")


@app.command()
def rotate() -> None:
    """Encrypt every secret anew with the first of GRISTMILL_SECRET_KEYS; then the old keys can go."""
    keys = _keyring()

    async def run(session: Transaction) -> int:
        settings = await system_settings.rotate(session, keyring=keys, actor=actor())
        return settings + await rotate_keys(session, keyring=keys, actor=actor())

    print(f"{in_session(run)} secrets are encrypted with the first key")


@app.command("new-key")
def new_key() -> None:
    """Print a fresh key for GRISTMILL_SECRET_KEYS."""
    print(keyring.new_key())


def _values(words: list[str]) -> dict[str, str]:
    """Return what to set, by key: ``KEY VALUE``, or any number of ``KEY=VALUE`` and of ``KEY``, which is read."""
    match words:
        case [key, value] if "=" not in key and value.partition("=")[0] not in KNOWN:
            return {key: _in_the_open(key, value)}
    values: dict[str, str] = {}
    for word in words:
        key, given, value = word.partition("=")
        require_known(key)
        if key in values:
            raise Refusal(f"{key} is given twice")
        values[key] = _in_the_open(key, value) if given else _read(key)
    return values


def _in_the_open(key: str, value: str) -> str:
    """Return ``value``; refuse one that a command line, which `ps` and the shell's history show, must not hold."""
    if require_known(key).secret:
        raise Refusal(f"{key} is a secret: leave its value out, it is read from standard input")
    return value


def _read(key: str) -> str:
    """Return the value of ``key`` from standard input, a line of it each; at a terminal it is asked for, unseen."""
    return _asked(key) if sys.stdin.isatty() else sys.stdin.readline().strip()


def _keyring() -> keyring.Keyring:
    return keyring.Keyring(keys_of(load()))


def _asked(key: str) -> str:
    value = getpass.getpass(f"{key}: ")
    if not value:
        raise Refusal(f"{key} must have a value")
    return value
