"""``gristmill settings``: settings in the database that take effect while the system runs."""

import getpass
import sys
from typing import Annotated

import typer

from cli.connection import actor
from cli.output import Json, print_json, print_table, remark
from cli.secret_keys import find_keys
from cli.session import in_session
from cli.values import format_count, format_time
from config.settings import load
from workers.llm.operate.providers import rotate_keys
from workers.notifications.endpoints import reencrypt_secrets
from workers.operations import keyring, system_settings
from workers.operations.system_settings import KNOWN_SETTINGS, require_known
from workers.runtime.database import Transaction
from workers.runtime.refusals import Refusal

app = typer.Typer(help="Choose the provider and the models while the system runs.", no_args_is_help=True)

Key = Annotated[str, typer.Argument(metavar="KEY", help="For example ai_provider or llm_model.")]


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the settings. Secrets are not shown."""
    found = in_session(system_settings.list_settings)
    if as_json:
        print_json(found)
        return
    if found:
        print_table(
            ("KEY", "VALUE", "SINCE", "MEANING"),
            ((one.key, one.value, format_time(one.updated_at), one.description) for one in found),
            keep={"KEY", "SINCE"},
        )
    unset = ", ".join(key for key in KNOWN_SETTINGS if key not in {one.key for one in found})
    if unset:
        remark(f"not set: {unset}")


@app.command("set")
def set_(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="KEY [VALUE] | KEY[=VALUE] …",
            help="Several take effect together. A missing value is read from standard input, as a secret must be.",
        ),
    ],
) -> None:
    """Set KEY to VALUE, or several KEY=VALUE at once. Running workers use the new values within seconds."""
    values = _values(words)
    keys = _keyring()
    unset = in_session(lambda session: system_settings.put(session, values, keyring=keys, actor=actor()))
    for key in values:
        print(f"{key} is set")
    for key in unset:
        remark(f"{key} is removed: it belonged to another provider")


@app.command()
def remove(key: Key) -> None:
    """Remove KEY: the value of the environment is used again."""
    gone = in_session(lambda session: system_settings.remove(session, key, actor=actor()))
    for one in gone:
        print(f"{one} is removed")
    if key not in gone:
        remark(f"{key} was not set")


@app.command()
def rotate() -> None:
    """Encrypt every secret again with the first of GRISTMILL_SECRET_KEYS. Then the old keys can be removed."""
    keys = _keyring()

    async def run(session: Transaction) -> int:
        settings = await system_settings.rotate(session, keyring=keys, actor=actor())
        endpoints = await reencrypt_secrets(session, keyring=keys, actor=actor())
        return settings + endpoints + await rotate_keys(session, keyring=keys, actor=actor())

    print(f"{format_count(in_session(run), 'secret')} encrypted with the first key")


@app.command("new-key")
def new_key() -> None:
    """Print a new key for GRISTMILL_SECRET_KEYS."""
    print(keyring.new_key())


def _values(words: list[str]) -> dict[str, str]:
    """Return the values to set by key, from ``KEY VALUE``, ``KEY=VALUE …``, or ``KEY`` with the value read."""
    match words:
        case [key, value] if "=" not in key and value.partition("=")[0] not in KNOWN_SETTINGS:
            return {key: _require_not_secret(key, value)}
    values: dict[str, str] = {}
    for word in words:
        key, given, value = word.partition("=")
        require_known(key)
        if key in values:
            raise Refusal(f"{key} is given twice")
        values[key] = _require_not_secret(key, value) if given else _read_value(key)
    return values


def _require_not_secret(key: str, value: str) -> str:
    """Return ``value``; refuse a secret, because `ps` and the history of the shell show command lines."""
    if require_known(key).secret:
        raise Refusal(f"{key} is a secret: leave its value out, it is read from standard input")
    return value


def _read_value(key: str) -> str:
    """Return the value of ``key``: one line of standard input; on a terminal ask for it without showing it."""
    return _prompt_value(key) if sys.stdin.isatty() else sys.stdin.readline().strip()


def _keyring() -> keyring.Keyring:
    return keyring.Keyring(find_keys(load()))


def _prompt_value(key: str) -> str:
    value = getpass.getpass(f"{key}: ")
    if not value:
        raise Refusal(f"{key} must have a value")
    return value
