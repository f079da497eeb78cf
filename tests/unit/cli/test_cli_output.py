"""What commands print, and how every error becomes one line."""

import io
import json
import subprocess
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
import redis
from rich.console import Console

import cli
from cli.commands.jobs import COMMANDS as JOBS_COMMANDS
from cli.error_lines import error_line
from cli.lazy import load_command
from cli.main import COMMANDS
from cli.output import make_table, one_line, print_json, print_table, print_wrapped, status_text
from workers.runtime.enqueue import EnqueueError
from workers.runtime.handler.registry import UnknownStageError
from workers.runtime.refusals import Failed, Refusal

CLI = Path(cli.__file__).parent
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


JOBS = ("ID", "STAGE", "STATUS", ">PRIO", ">TRIES", ">AGE", "WAITS FOR / ERROR")
NOT_MIGRATED = (
    "the database is not migrated to this version; run `gristmill migrate` (Postgres: no table). "
    "If it has the newest revision, something of it is missing"
)
ROWS = (
    (LONG[:36], "vectorization.embed", "queued_for_vec", 5, 12, "3 min", "backing off after: " + "503 again " * 9),
    (LONG[:36], "scoring.score", "completed", 10, 1, "12 d", None),
)


def lines_of(width: int, columns=JOBS, rows=ROWS) -> list[str]:
    printed = io.StringIO()
    Console(width=width, file=printed).print(make_table(columns, rows, width=width), crop=False, overflow="fold")
    return [line.rstrip() for line in printed.getvalue().splitlines()]


@pytest.mark.parametrize("width", [60, 80, 100, 132, 200])
def test_ids_stages_and_statuses_are_whole_in_every_width(width: int) -> None:
    """What a person copies into the next command is never cut, and no line is longer than the terminal."""
    lines = lines_of(width)

    assert sum(LONG[:36] in line for line in lines) == 2
    for word in ("vectorization.embed", "queued_for_vec", "scoring.score", "completed"):
        assert sum(word in line.split() for line in lines) == 1
    assert max(map(len, lines)) <= width
    assert " ".join(lines).count("503") == 9


def test_where_no_table_fits_each_row_is_a_block() -> None:
    """On 80 columns the id, the stage and the status are one line; the rest stands below with its names."""
    assert lines_of(80)[:2] == [
        f"{LONG[:36]}  vectorization.embed  queued_for_vec",
        "    prio: 5, tries: 12, age: 3 min",
    ]
    assert lines_of(80)[-2:] == [f"{LONG[:36]}  scoring.score  completed", "    prio: 10, tries: 1, age: 12 d"]


def test_a_table_that_fits_stays_a_table() -> None:
    """Few and short columns keep their header on a small terminal."""
    lines = lines_of(40, ("NAME", ">COUNT"), [("a", 1), ("b" * 20, 22)])

    assert lines == ["NAME                  COUNT", "a                         1", "bbbbbbbbbbbbbbbbbbbb     22"]


@pytest.mark.parametrize("width", [30, 60, 80])
def test_a_path_and_an_id_are_never_broken(width: int) -> None:
    """A person must be able to copy it, so it may be longer than the line."""
    path, key = "/home/somebody/a/long/way/down/.gristmill/roles/database_url_worker", str(UUID(int=7))
    columns = ("KIND", "LOGIN", "", "URL IN", "KEY")

    lines = lines_of(width, columns, [("worker", "gristmill_worker_login", "made", path, key)])

    assert any(path in line for line in lines)
    assert any(key in line for line in lines)


def test_a_block_says_what_its_number_is() -> None:
    """A number without its name says nothing."""
    columns = (">VERSION", "WHEN", "FROM", "TO", "REASON")

    lines = lines_of(30, columns, [(3, "2026-11-30 07:00:00 UTC", "pending", "processing", "because " * 9)])

    assert lines[0].startswith("version 3")


def test_empty_columns_are_left_out_if_the_table_does_not_fit() -> None:
    """Only optional columns are left out, and only on a narrow terminal."""
    columns = ("STAGE", ">READY", ">FAILED", ">CANCELLED", "STATE")
    rows = [("scoring.score", 0, 0, "–", "open"), ("proving.plain", 0, 2, "–", "no worker")]
    shown = {}
    for width in (44, 200):
        printed = io.StringIO()
        made = make_table(columns, rows, optional=("FAILED", "CANCELLED"), width=width)
        Console(width=width, file=printed).print(made)
        shown[width] = printed.getvalue().split("\n")[0].split()

    assert shown[44] == ["STAGE", "READY", "FAILED", "STATE"]
    assert shown[200] == ["STAGE", "READY", "FAILED", "CANCELLED", "STATE"]


def test_a_cell_is_one_line_whatever_it_holds(capsys) -> None:
    """Line breaks in a text do not break the rows in a pipe, and control characters do not reach the terminal."""
    print_table(("ID", "TEXT"), [(1, "two\nlines\tand \x1b[31mred")])

    assert len(capsys.readouterr().out.splitlines()) == 2


def test_every_table_of_the_commands_is_printed_by_one_function() -> None:
    """No command makes its own table, so all tables have the same rules."""
    makers = {path.relative_to(CLI).as_posix() for path in CLI.rglob("*.py") if "rich.table" in path.read_text("utf-8")}

    assert makers == {"output.py"}


def test_a_wrapped_line_is_indented_on_a_terminal(monkeypatch, capsys) -> None:
    """The further lines begin two blanks further than the line; a path is not broken."""
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)

    print_wrapped(["  rated by offline-rubric-v1: realism 4.2", "", "/a/very/long/path/to/a/folder/that/does/not/fit"])

    assert capsys.readouterr().out.splitlines() == [
        "  rated by offline-rubric-v1:",
        "    realism 4.2",
        "",
        "/a/very/long/path/to/a/folder/that/does/not/fit",
    ]


def test_a_line_in_a_pipe_is_not_wrapped(capsys) -> None:
    """A program reads one line per line."""
    print_wrapped(["word " * 100 + "end"])

    assert capsys.readouterr().out == "word " * 100 + "end\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [({"a": [1, None]}, '{"a": [1, null]}'), ([1], "[1]"), (b"\x01", "01"), ("a\nb", "a b"), (7, "7")],
)
def test_a_value_is_shown_on_one_line(value: object, text: str) -> None:
    """Lists and objects as JSON, as people write them."""
    assert one_line(value) == text


def test_statuses_have_one_case_for_people() -> None:
    """Tables store FAILED and failed. A person reads lower case, and may type either."""
    assert status_text("QUEUED_FOR_VEC") == "queued_for_vec"


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (Failed("nothing runs here"), "nothing runs here", 1),
        (Refusal("age must be\n 10m"), "age must be 10m", 2),
        (EnqueueError("prompt is required"), "prompt is required", 2),
        (UnknownStageError("x", ["a", "b"]), "stage 'x' is not registered; known stages: a, b", 2),
        (
            psycopg.OperationalError("connection refused\n\tis it running?"),
            "Postgres cannot be reached: connection refused",
            1,
        ),
        (
            psycopg.errors.UndefinedTable("no table"),
            NOT_MIGRATED,
            1,
        ),
        (redis.ConnectionError("Error 111"), "Redis cannot be reached: Error 111", 1),
        (PermissionError(13, "Permission denied", "/root/x"), "/root/x: Permission denied", 1),
        (KeyboardInterrupt(), "interrupted", 130),
    ],
)
def test_every_error_is_one_line_with_its_exit_code(error: BaseException, line: str, code: int) -> None:
    """1 failed, 2 wrong usage. The line says what to do, not where in the code the error happened."""
    assert error_line(error) == (line, code)


def test_an_unforeseen_error_is_one_line_without_secrets() -> None:
    """Even a bug shows no traceback, and no password that is in its message."""
    line, code = error_line(ValueError("cannot use\npostgresql://me:tell-nobody@db/x"))

    assert line.startswith("unexpected ValueError: cannot use postgresql://me:***@db/x")
    assert code == 1


def test_help_comes_at_once() -> None:
    """`gristmill --help` loads nothing that only commands need: no database library, no Celery, no openai."""
    probe = (
        "import sys, cli.main; sys.argv = ['gristmill', '--help']; cli.main.main();"
        "heavy = {'alembic', 'celery', 'openai', 'psycopg', 'pydantic', 'sqlalchemy'};"
        "print(sorted(heavy & sys.modules.keys() | {name for name in sys.modules if name.startswith('cli.commands')}))"
    )

    run = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)

    assert "Give due jobs to the workers." in run.stdout
    assert run.stdout.splitlines()[-1] == "[]"


def test_help_on_jobs_loads_none_of_its_commands() -> None:
    """A shell that completes their names waits for no database library."""
    probe = (
        "import sys, cli.main; sys.argv = ['gristmill', 'jobs', '-h']; cli.main.main();"
        "print(sorted({'psycopg', 'sqlalchemy'} & sys.modules.keys()))"
    )

    run = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)

    assert "List jobs, newest first." in run.stdout
    assert run.stdout.splitlines()[-1] == "[]"


def test_the_table_of_commands_says_what_each_command_says() -> None:
    """The help line of the table is the first line of the command's own help."""
    for entry in (*COMMANDS, *JOBS_COMMANDS):
        assert (load_command(entry).help or "").partition("\n")[0] == entry.summary, entry.name


def test_every_command_of_the_contract_is_there() -> None:
    """The names that scripts and docker-compose rely on."""
    from typer.main import get_command

    from cli.main import app

    root = get_command(app)
    commands = getattr(root, "commands", {})
    groups = {name: set(getattr(group, "commands", ())) for name, group in commands.items()}

    assert groups.keys() >= {"up", "down", "status", "logs", "demo", "migrate", "config", "doctor"}
    assert groups.keys() >= {"worker", "dispatcher", "beat", "flower", "enqueue"}
    assert groups["jobs"] == {"list", "show", "watch", "cancel", "retry", "why", "again", "verify"}
    assert groups["stages"] == {"pause", "resume"}
    assert groups["dead"] == {"list", "show", "replay"}
    assert groups["schedules"] == {"list", "show", "add", "edit", "pause", "resume", "run", "remove"}
