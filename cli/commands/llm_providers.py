"""``gristmill llm providers`` and ``gristmill llm resume``: who can be asked, and whether they are asked now."""

from typing import Annotated, Any

import typer

from cli.connection import actor
from cli.llm_routing import with_routing
from cli.llm_values import Key, KeyEnv, read_key
from cli.output import Json, print_json, print_table, remark
from cli.secret_keys import find_keys
from cli.session import in_database, in_session
from cli.values import format_count, format_time
from config.settings import load
from workers.llm.operate import providers
from workers.llm.operate.providers import ProviderView
from workers.operations.keyring import Keyring
from workers.runtime.refusals import Refusal, printable

app = typer.Typer(help="List, add, change, pause, resume and remove providers.")

Name = Annotated[str, typer.Argument(metavar="NAME")]
Kind = Annotated[str | None, typer.Option(metavar="KIND", help="openai, openrouter, compatible or offline.")]
BaseUrl = Annotated[str | None, typer.Option(metavar="URL", help="Where it answers, if not the kind's own address.")]


@app.callback(invoke_without_command=True)
def list_(context: typer.Context, as_json: Json = False) -> None:
    """List, add, change, pause, resume and remove providers."""
    if context.invoked_subcommand is not None:
        return
    found = with_routing(providers.list_providers)
    if as_json:
        print_json(found)
        return
    print_table(
        ("PROVIDER", "KIND", "ADDRESS", "KEY", "STATE", "FROM", "ROUTES"),
        (
            (one.name, one.kind, one.base_url or "–", "set" if one.has_key else "–", one.state, _ORIGIN[one.origin],
             ", ".join(one.routes) or "–")
            for one in found
        ),
        keep={"PROVIDER", "KIND"},
    )  # fmt: skip
    for one in found:
        for line in _remarks(one):
            print(printable(line))


@app.command()
def add(
    name: Name,
    *,
    kind: Kind = None,
    base_url: BaseUrl = None,
    key: Key = False,
    key_env: KeyEnv = None,
) -> None:
    """Add a provider. Hosted ones need a key: it is read from standard input or, with --key-env, the environment."""
    if kind is None:
        raise Refusal("kind is required; give --kind openai, openrouter, compatible or offline")
    secret = read_key(key=key, key_env=key_env, needed=kind in {"openai", "openrouter"})
    given = {"name": name, "kind": kind, "base_url": base_url, "api_key": secret}
    keys = _keyring()
    made = in_session(lambda session: providers.add_provider(session, given, keyring=keys, actor=actor()))
    print(f"{made} is added; `gristmill llm routes add ROUTE --step {made}/MODEL` sends calls there")


@app.command("set")
def set_(
    name: Name,
    *,
    kind: Kind = None,
    base_url: BaseUrl = None,
    key: Key = False,
    key_env: KeyEnv = None,
) -> None:
    """Change what is given of NAME; running processes follow within seconds. Another address needs the key anew."""
    given: dict[str, Any] = {"kind": kind, "base_url": base_url}
    given["api_key"] = read_key(key=key, key_env=key_env, needed=False)
    given = {field: value for field, value in given.items() if value is not None}
    if not given:
        raise Refusal("name at least one thing to change; `gristmill llm providers set -h` lists them")
    keys = _keyring()
    in_session(lambda session: providers.change_provider(session, name, given, keyring=keys, actor=actor()))
    print(f"{name} is changed")


@app.command()
def remove(name: Name) -> None:
    """Delete NAME with its key, if no route has a step there. Its calls stay in the ledger."""
    in_session(lambda session: providers.remove_provider(session, name, actor=actor()))
    print(f"{name} is removed")


@app.command()
def pause(
    name: Name,
    reason: Annotated[str | None, typer.Option(help="Why, as waiting jobs tell it.")] = None,
) -> None:
    """Ask NAME nothing more until it is resumed. Its jobs wait and spend no attempt."""
    by = actor(reason)
    why = reason or f"paused by {by.changed_by}"
    in_session(lambda session: providers.pause_provider(session, name, why, actor=by))
    print(f"{name} is paused; `gristmill llm resume {name}` asks it again")


def resume(
    name: Annotated[str | None, typer.Argument(metavar="[PROVIDER]", help="All of them if not given.")] = None,
) -> None:
    """Ask a paused provider again, or all; their jobs go on at once."""
    ended = with_routing(lambda session, routing: providers.resume_providers(session, routing, name, actor=actor()))
    done = in_database(lambda database: providers.wake_resumed(database, ended))
    for one in done:
        print(f"{one.provider} is asked again" + (f"; {format_count(one.woken, 'job')} woken" if one.woken else ""))
    if not done:
        remark("nothing is paused, away or cooling down")


app.command("resume")(resume)

_ORIGIN = {"table": "row", "environment": "environment", "settings": "system settings"}


def _remarks(one: ProviderView) -> list[str]:
    """Return why a provider, or a model of it, is not asked now."""
    lines = []
    if one.state != "open":
        since = f" since {format_time(one.since)}" if one.since else ""
        until = f" until {format_time(one.until)}" if one.until else ""
        lines.append(f"{one.name} is {one.state}{since}{until}: {one.reason}")
    lines += [
        f"{one.name}: model {cooldown.model} is left alone until {format_time(cooldown.until)}: {cooldown.reason}"
        for cooldown in one.cooldowns
        if cooldown.model is not None
    ]
    return lines


def _keyring() -> Keyring:
    return Keyring(find_keys(load()))
