"""A group of commands that imports the module of a command only when that command runs.

A table has the names, panels and help lines, so `gristmill --help` and shell completion import no command.
"""

import importlib
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup


class CommandEntry(NamedTuple):
    """One command. ``place`` is ``module:attribute`` in ``cli.commands``: a function, or a group of commands.

    ``panel`` is the heading of the command in the help, if there are several headings.
    """

    name: str
    place: str
    panel: str | None
    summary: str


class _LazyCommands(MutableMapping[str, Any]):
    """The commands by name. Each is imported at its first use."""

    def __init__(self, entries: Mapping[str, CommandEntry]) -> None:
        self._entries = entries
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            self._loaded[name] = load_command(self._entries[name])
        return self._loaded[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        del self._loaded[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def load_command(entry: CommandEntry) -> Any:
    """Import the command of ``entry`` and return it as Typer needs it."""
    module, _, attribute = entry.place.partition(":")
    found = getattr(importlib.import_module(f"cli.commands.{module}"), attribute)
    if isinstance(found, typer.Typer):
        command: Any = typer.main.get_group(found)
    else:
        single = typer.Typer(add_completion=False)
        single.command(entry.name)(found)
        command = typer.main.get_command(single)
    command.name = entry.name
    return command


def lazy_group(entries: Sequence[CommandEntry]) -> type[TyperGroup]:
    """Return the class of a group with these ``entries``, for ``typer.Typer(cls=…)``."""
    table = {entry.name: entry for entry in entries}

    class LazyGroup(TyperGroup):
        def __init__(self, **attributes: Any) -> None:
            super().__init__(**attributes)
            self.commands = _LazyCommands(table)
            self._is_listing = False

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            if self._is_listing:
                entry = table[cmd_name]
                return TyperCommand(entry.name, help=entry.summary, rich_help_panel=entry.panel)
            return super().get_command(ctx, cmd_name)

        def list_commands(self, _ctx: Any) -> list[str]:
            return list(table)

        def format_help(self, ctx: Any, formatter: Any) -> None:
            with self._listing():
                super().format_help(ctx, formatter)

        def shell_complete(self, ctx: Any, incomplete: str) -> Any:
            with self._listing():
                return super().shell_complete(ctx, incomplete)

        @contextmanager
        def _listing(self) -> Iterator[None]:
            self._is_listing = True
            try:
                yield
            finally:
                self._is_listing = False

    return LazyGroup
