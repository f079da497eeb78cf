"""Every option and file in which a person writes JSON."""

from pathlib import Path

import pytest

from tests.support.command_line import Gristmill

TWICE = '{"prompt": "a", "prompt": "b"}'
ENQUEUE = ("enqueue", "proving.plain", "--payload")
COMMANDS = {
    "enqueue --payload": (*ENQUEUE, TWICE),
    "enqueue --payload @FILE": (*ENQUEUE, "@twice.json"),
    "schedules add --payload": (
        "schedules",
        "add",
        "s",
        "--cron",
        "* * * * *",
        "--stage",
        "proving.plain",
        "--payload",
        TWICE,
    ),
    "schedules edit --payload": ("schedules", "edit", "s", "--payload", TWICE),
    "assessments create --request": ("assessments", "create", "a", "--request", TWICE),
    "assessments create --options": ("assessments", "create", "a", "--server", "s", "--type", "t", "--options", TWICE),
    "assessments update --result": ("assessments", "update", "a", "completed", "--version", "1", "--result", TWICE),
    "profiles add --attributes": ("profiles", "add", "--name", "Ada", "--attributes", TWICE),
    "profiles add FILE": ("profiles", "add", "twice.jsonl"),
    "demo --profiles": ("demo", "--profiles", "twice.jsonl"),
}


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=list(COMMANDS))
def test_a_key_that_is_given_twice_is_refused(gristmill: Gristmill, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """One line names the key, and nothing is written: nobody can know which of the values was meant."""
    (tmp_path / "twice.json").write_text(TWICE)
    (tmp_path / "twice.jsonl").write_text('{"name": "Bob"}\n{"name": "Ada", "attributes": ' + TWICE + "}\n")

    code, output, complaint = gristmill(*arguments)

    assert (code, output) == (2, "")
    assert complaint.endswith(" has the key 'prompt' twice in one object")
    assert "\n" not in complaint
