"""Redaction does not change the texts of our own refusals."""

import ast
import re

import pytest

from config.redaction import redact_text
from tests.support.paths import ROOT

ROOMS = ("workers", "cli", "config")
VALUE = "'x'"


def spoken(node: ast.expr) -> str | None:
    """Return the text of a string or an f-string, with a plain word for each value."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(str(part.value) if isinstance(part, ast.Constant) else VALUE for part in parts)
    return None


def raised() -> set[str]:
    """Return the texts of all our errors, and of all reasons and rules that are passed on."""
    found = set()
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.Call):
                    continue
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if name.endswith(("Error", "Refused", "Refusal", "Permanent", "Retryable")) or name in {
                    "Fail", "Snooze", "Check", "verdict", "DeadLetter", "_refuse", "__init__",
                }:  # fmt: skip
                    texts = [*node.args, *(keyword.value for keyword in node.keywords)]
                    found |= {text for text in map(spoken, texts) if text and " " in text}
    return found


def raised_by_postgres() -> set[str]:
    """Return every text that our functions in the database raise."""
    found: set[str] = set()
    for path in [*(ROOT / "migrations").rglob("*.py"), *(ROOT / "migrations").rglob("*.sql")]:
        text = path.read_text(encoding="utf-8")
        found |= {one.replace("%", VALUE) for one in re.findall(r"RAISE EXCEPTION\s+'((?:[^']|'')+)'", text)}
    return found


REFUSALS = sorted(raised() | raised_by_postgres())


def test_the_search_finds_refusals() -> None:
    """The search finds the texts of every room and of the database."""
    assert len(REFUSALS) > 100
    assert any("is not registered" in text for text in REFUSALS)
    assert any("must be" in text for text in raised_by_postgres())


@pytest.mark.parametrize("text", REFUSALS)
def test_a_refusal_reaches_its_reader_whole(text: str) -> None:
    """No rule that hides secrets matches a text of ours."""
    assert redact_text(text) == text
