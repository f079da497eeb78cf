"""What commands print, and how every error becomes one line."""

import json
import subprocess
import sys
from dataclasses import dataclass
from datetime import timedelta

import psycopg
import pytest
import redis

from cli.complaints import complaint
from cli.errors import CommandError, WrongUsageError
from cli.output import print_json, print_table
from workers.runtime.enqueue import EnqueueError
from workers.runtime.registry import UnknownStageError

LONG = "01a200bc-3a92-7204-a07a-f5b30225d20c" * 10


@dataclass(frozen=True)
class View:
    stage: str
    oldest_wait: timedelta | None


def test_json_names_durations_by_their_unit_even_where_they_are_null(capsys) -> None:
    """A script finds the same keys in every row."""
    print_json([View("scoring.score", timedelta(seconds=2)), View("proving.plain", None)])

    assert json.loads(capsys.readouterr().out) == [
        {"stage": "scoring.score", "oldest_wait_seconds": 2.0},
        {"stage": "proving.plain", "oldest_wait_seconds": None},
    ]


def test_a_table_on_a_pipe_is_never_cut(capsys) -> None:
    """Ids can be copied and piped whole, and brackets in a text are no markup."""
    print_table(("ID", ">COUNT"), [(LONG, 7), ("[bold]x[/bold]", 8)])

    header, first, second = (line.rstrip() for line in capsys.readouterr().out.splitlines())
    assert header.split() == ["ID", "COUNT"]
    assert first.split() == [LONG, "7"]
    assert second.split() == ["[bold]x[/bold]", "8"]


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (CommandError("nothing runs here"), "nothing runs here", 1),
        (WrongUsageError("age must be\n 10m"), "age must be 10m", 2),
        (EnqueueError("prompt is required"), "prompt is required", 2),
        (UnknownStageError("x", ["a", "b"]), "stage 'x' is not registered; known stages: a, b", 2),
        (
            psycopg.OperationalError("connection refused\n\tis it running?"),
            "Postgres cannot be reached: connection refused",
            1,
        ),
        (
            psycopg.errors.UndefinedTable("no table"),
            "the database is not migrated to this version; run `gristmill migrate`",
            1,
        ),
        (redis.ConnectionError("Error 111"), "Redis cannot be reached: Error 111", 1),
        (PermissionError(13, "Permission denied", "/root/x"), "/root/x: Permission denied", 1),
        (KeyboardInterrupt(), "interrupted", 130),
    ],
)
def test_every_error_is_one_line_with_its_exit_code(error: BaseException, line: str, code: int) -> None:
    """1 failed, 2 wrong usage; what a person reads says what to do, not where in the code it happened."""
    assert complaint(error) == (line, code)


def test_an_unforeseen_error_is_one_line_without_secrets() -> None:
    """Even a bug shows no traceback, and no password that its message may hold."""
    line, code = complaint(ValueError("cannot use\npostgresql://me:tell-nobody@db/x"))

    assert line.startswith("unexpected ValueError: cannot use postgresql://me:***@db/x")
    assert code == 1


def test_help_comes_at_once() -> None:
    """`gristmill --help` loads nothing that only commands need: no database library, no Celery, no openai."""
    probe = (
        "import sys, cli.main; heavy = {'alembic', 'celery', 'openai', 'psycopg', 'pydantic', 'sqlalchemy'};"
        "print(sorted(heavy & sys.modules.keys()))"
    )

    run = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)

    assert run.stdout.strip() == "[]"


def test_every_command_of_the_contract_is_there() -> None:
    """The names that scripts and docker-compose rely on."""
    from typer.main import get_command

    from cli.main import app

    root = get_command(app)
    commands = getattr(root, "commands", {})
    groups = {name: set(getattr(group, "commands", ())) for name, group in commands.items()}

    assert groups.keys() >= {"up", "down", "status", "demo", "migrate", "config", "doctor"}
    assert groups.keys() >= {"worker", "dispatcher", "beat", "flower", "enqueue"}
    assert groups["jobs"] == {"list", "show", "watch", "cancel", "retry", "why", "verify"}
    assert groups["stages"] == {"pause", "resume"}
    assert groups["dead"] == {"list", "show", "replay"}
    assert groups["schedules"] == {"list", "show", "add", "edit", "pause", "resume", "run", "remove"}
