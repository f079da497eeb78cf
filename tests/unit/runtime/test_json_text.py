"""JSON that a person wrote: what is accepted, and the one line for what is refused."""

import re
from pathlib import Path

import pytest

import cli
from workers.runtime.json_text import JsonTextError, read_json

CLI = Path(cli.__file__).parent


def test_json_is_read() -> None:
    """The same key may stand in two objects."""
    assert read_json('{"a": 1, "b": [{"a": 2.5}, {"a": null}]}') == {"a": 1, "b": [{"a": 2.5}, {"a": None}]}


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ('{"a": 1, "a": 1}', "has the key 'a' twice in one object"),
        ('{"b": [{"c": {"a": 1, "x": 2, "a": 3}}]}', "has the key 'a' twice in one object"),
        ('{"\\u0061": 1, "a": 2}', "has the key 'a' twice in one object"),
        ('{"a": }', "is not JSON: Expecting value at column 7"),
        ('{\n"a": }', "is not JSON: Expecting value at line 2, column 6"),
        ('{"a": NaN}', "is not JSON: NaN is not a JSON number"),
        ('{"a": 1e999}', "is not JSON: '1e999' is not a JSON number"),
        ('{"a": 1' + "0" * 5_000 + "}", "has a number with too many digits"),
        ("[" * 100_000, "is nested too deeply"),
    ],
)
def test_the_rule_is_named(text: str, rule: str) -> None:
    """Python's own reader would keep the last of two values, and accept NaN."""
    with pytest.raises(JsonTextError, match=f"^{re.escape(rule)}$"):
        read_json(text)


def test_the_key_is_shortened() -> None:
    """A line in a terminal stays short."""
    key = "k" * 10_000

    with pytest.raises(JsonTextError) as refused:
        read_json(f'{{"{key}": 1, "{key}": 2}}')

    assert len(str(refused.value)) < 200


def test_no_command_has_a_json_reader_of_its_own() -> None:
    """Every other ``json.loads`` of the command line reads what a program wrote."""
    written_by_programs = {"change_report.py", "demo/created_ids.py", "doctor/provider.py"}

    readers = {path.relative_to(CLI).as_posix() for path in CLI.rglob("*.py") if "json.loads(" in path.read_text()}

    assert readers == written_by_programs
