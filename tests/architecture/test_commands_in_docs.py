"""Every command in a page, a hint or a help text exists, with its options."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from cli.main import app
from tests.support.paths import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "samples" / "README.md", *(ROOT / "docs").glob("*.md")]
SOURCES = sorted((ROOT / "cli").rglob("*.py"))
COMMAND = re.compile(r"(?:^|`|\(|= )(?:\.venv/bin/)?gristmill((?: +(?:[^\s`|&;#]+))+)", re.MULTILINE)
WORD = re.compile(r"[a-z][a-z-]*")


@cache
def root() -> Any:
    return get_command(app)


def commands_in(text: str) -> Iterator[list[str]]:
    """Yield the words after ``gristmill`` of each command in ``text``."""
    for found in COMMAND.finditer(text.replace("\\\n", " ")):
        yield found[1].split()


def find_mistake(words: list[str]) -> str | None:
    """Return the part of a command that does not exist, or None."""
    command: Any = root()
    rest = list(words)
    while rest and hasattr(command, "commands"):
        name = rest[0]
        if name.startswith("-") or not WORD.fullmatch(name):
            break
        if name not in command.commands:
            return f"no command {name!r} in {' '.join(words)!r}"
        command = command.commands[rest.pop(0)]
    options = {option for one in command.params for option in (*one.opts, *one.secondary_opts)} | {"--help", "-h"}
    given = [word.partition("=")[0].rstrip(",.") for word in rest if re.match(r"--?[a-z]", word)]
    unknown = [one for one in given if one not in options]
    return f"no option {', '.join(unknown)} in {' '.join(words)!r}" if unknown else None


def test_unknown_commands_and_options_are_found() -> None:
    """The search itself works: it finds commands and options that do not exist."""
    assert find_mistake(["jobs", "lst"]) == "no command 'lst' in 'jobs lst'"
    assert find_mistake(["up", "--detached"]) == "no option --detached in 'up --detached'"
    assert find_mistake(["jobs", "list", "--stage", "scoring.score"]) is None
    assert list(commands_in("run `gristmill up --detach`, or\ngristmill jobs list")) == [
        ["up", "--detach"],
        ["jobs", "list"],
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_of_a_page_exists(page: Path) -> None:
    """A new user can copy every command from the page."""
    assert [told for words in commands_in(page.read_text("utf-8")) if (told := find_mistake(words))] == []


def test_every_hint_of_the_command_line_exists() -> None:
    """This covers the commands in messages and help texts, with or without backticks."""
    typed = re.compile(r"""typed\((?:f?['"])([a-z][^'"{]*)""")
    hints = [
        words
        for path in SOURCES
        for text in [path.read_text("utf-8")]
        for words in (*commands_in(text), *(found[1].split() for found in typed.finditer(text)))
    ]

    assert [told for words in hints if (told := find_mistake(words))] == []
    assert len(hints) > 20
