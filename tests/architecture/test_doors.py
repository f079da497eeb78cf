"""The command line is a door: it parses, calls a use-case and prints. It has no SQL and imports at the top."""

import ast
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT

CLI = ROOT / "cli"


def files() -> list[str]:
    return sorted(str(path.relative_to(CLI)) for path in CLI.rglob("*.py"))


def unexplained_imports(path: Path) -> Iterator[int]:
    """Yield the lines of imports inside functions that have no comment with a reason."""
    with path.open("rb") as file:
        comments = {
            token.start[0]: token.string for token in tokenize.tokenize(file.readline) if token.type == tokenize.COMMENT
        }
    for function in ast.walk(ast.parse(path.read_text())):
        if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        lines = range(function.lineno, (function.end_lineno or 0) + 1)
        if any("Imported here" in comments.get(line, "") for line in lines):
            continue
        for node in ast.walk(function):
            if isinstance(node, (ast.Import, ast.ImportFrom)) and node.lineno not in comments:
                yield node.lineno


def statements_sent(path: Path) -> Iterator[int]:
    """Yield the lines that send a statement to a database."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "execute":
            yield node.lineno


@pytest.mark.parametrize("name", files())
def test_a_command_imports_at_its_top_or_says_why_not(name):
    """Each command's module is loaded lazily, so an import inside a function saves nothing and hides a dependency."""
    assert list(unexplained_imports(CLI / name)) == []


@pytest.mark.parametrize("name", files())
def test_a_door_sends_no_statement(name):
    """Only the store sends statements to Postgres."""
    assert list(statements_sent(CLI / name)) == []
