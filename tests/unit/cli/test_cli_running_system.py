"""Which system a command means, and how a person types the next command."""

import os
import shutil
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cli.program import command_line
from cli.running_system import find_system, list_data_dirs
from cli.server_urls import find_server_urls
from config.settings import Settings
from local.folder_lock import FolderLock
from local.supervision_status import LOCK_FILE, STATUS_FILE, SupervisorStatus
from workers.runtime.refusals import Failed

URLS = {"database_url": "postgresql://u:secret@127.0.0.1:1/d", "redis_url": "redis://:secret@127.0.0.1:2/0"}


@pytest.fixture
def above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data folder in which a system runs, two folders above the current one."""
    data_dir = tmp_path / "clone" / ".gristmill"
    data_dir.mkdir(parents=True)
    lock = FolderLock(data_dir, LOCK_FILE)
    lock.acquire()
    SupervisorStatus(os.getpid(), datetime.now(UTC), "running", (), URLS).write(data_dir)
    below = tmp_path / "clone" / "some" / "where"
    below.mkdir(parents=True)
    for name in ("DATABASE_URL", "REDIS_URL", "GRISTMILL_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(below)
    yield data_dir
    lock.release()


def test_a_system_of_a_folder_above_is_found_and_told(above: Path, capsys) -> None:
    """A command works from any folder of the clone, and says which system it uses."""
    where = find_server_urls(Settings())

    assert where.database_url == URLS["database_url"]
    assert capsys.readouterr().err == f"using the system that runs in {above}\n"


def test_a_command_that_searches_twice_announces_the_system_once(above: Path, capsys) -> None:
    """A command with --wait connects several times."""
    for _ in range(2):
        find_server_urls(Settings())

    assert capsys.readouterr().err == f"using the system that runs in {above}\n"


def test_the_system_of_the_current_folder_comes_first_without_a_remark(above: Path, monkeypatch, capsys) -> None:
    """The person expects this system, so nothing needs to be said."""
    monkeypatch.chdir(above.parent)

    found = find_system(Settings())

    assert found is not None
    assert found.data_dir.resolve() == above
    assert capsys.readouterr().err == ""


def test_a_data_folder_that_was_named_is_the_only_one(above: Path, tmp_path: Path, monkeypatch) -> None:
    """No other folder is searched. The error names the folder and says how to name another one."""
    monkeypatch.setenv("GRISTMILL_DATA_DIR", str(tmp_path / "other"))

    with pytest.raises(Failed) as told:
        find_server_urls(Settings())

    assert str(told.value).startswith(f"nothing runs in {tmp_path / 'other'}; start it with `")
    assert "set GRISTMILL_DATA_DIR to the data folder" in str(told.value)


def test_the_system_beside_the_installed_program_is_found_from_anywhere(
    above: Path, tmp_path: Path, monkeypatch
) -> None:
    """`/path/to/clone/.venv/bin/gristmill` uses the system of that clone."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(sys, "prefix", str(above.parent / ".venv"))

    found = find_system(Settings())

    assert found is not None
    assert found.data_dir == above


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to somebody else")
def test_a_system_of_another_user_is_not_used(above: Path) -> None:
    """A user who can write to /tmp must not choose the servers of other users."""
    os.chown(above / STATUS_FILE, 65_534, 65_534)

    assert above not in list(list_data_dirs(Settings()))


def script(folder: Path) -> Path:
    """Make a program with the name of ours."""
    path = folder / ".venv" / "bin" / "gristmill"
    path.parent.mkdir(parents=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("called", "on_path", "as_typed"),
    [
        ("{folder}/.venv/bin/gristmill", False, ".venv/bin/gristmill up"),
        (".venv/bin/gristmill", False, ".venv/bin/gristmill up"),
        ("{folder}/.venv/bin/gristmill", True, "gristmill up"),
        ("/opt/an app/bin/gristmill", False, "'/opt/an app/bin/gristmill' up"),
        ("/somewhere/cli/main.py", False, "gristmill up"),
    ],
)
def test_a_command_is_told_as_it_must_be_typed(tmp_path, monkeypatch, called, on_path, as_typed) -> None:
    """It has the path of the venv, unless the shell finds the program by its name."""
    program = script(tmp_path)
    monkeypatch.delenv("GRISTMILL_DATA_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [called.format(folder=tmp_path), "demo"])
    monkeypatch.setenv("PATH", f"{program.parent if on_path else '/nowhere'}:/usr/bin")
    assert (shutil.which("gristmill") is not None) is on_path

    assert command_line("up") == as_typed


def test_a_command_names_the_data_folder_that_the_environment_names(monkeypatch) -> None:
    """If the variable was set for one command only, the next command would not find the system."""
    monkeypatch.setattr(sys, "argv", ["gristmill"])
    monkeypatch.setenv("GRISTMILL_DATA_DIR", "/data/my system")

    assert command_line("down") == "GRISTMILL_DATA_DIR='/data/my system' gristmill down"
