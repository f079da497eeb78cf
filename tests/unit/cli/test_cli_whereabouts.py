"""Which system a command means, and how a person types the next command."""

import os
import shutil
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cli.addresses import addresses
from cli.typed import typed
from cli.whereabouts import find, places
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
    """A command works from anywhere in the clone, and says which system it talks to."""
    where = addresses(Settings())

    assert where.database_url == URLS["database_url"]
    assert capsys.readouterr().err == f"using the system that runs in {above}\n"


def test_the_system_of_the_current_folder_comes_first_and_goes_without_saying(above: Path, monkeypatch, capsys) -> None:
    """No remark where nobody could be mistaken."""
    monkeypatch.chdir(above.parent)

    found = find(Settings())

    assert found is not None
    assert found.data_dir.resolve() == above
    assert capsys.readouterr().err == ""


def test_a_data_folder_that_was_named_is_the_only_one(above: Path, tmp_path: Path, monkeypatch) -> None:
    """Whoever names one means it; the answer says where was looked and how to name another."""
    monkeypatch.setenv("GRISTMILL_DATA_DIR", str(tmp_path / "other"))

    with pytest.raises(Failed) as told:
        addresses(Settings())

    assert str(told.value).startswith(f"nothing runs in {tmp_path / 'other'}; start it with `")
    assert "GRISTMILL_DATA_DIR, or set DATABASE_URL" in str(told.value)


def test_the_system_beside_the_installed_program_is_found_from_anywhere(
    above: Path, tmp_path: Path, monkeypatch
) -> None:
    """`/path/to/clone/.venv/bin/gristmill` talks to that clone's system."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(sys, "prefix", str(above.parent / ".venv"))

    found = find(Settings())

    assert found is not None
    assert found.data_dir == above


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to somebody else")
def test_a_system_that_somebody_else_put_there_is_passed_over(above: Path) -> None:
    """Whoever may write to /tmp must not choose the servers that others talk to."""
    os.chown(above / STATUS_FILE, 65_534, 65_534)

    assert above not in list(places(Settings()))


def script(folder: Path) -> Path:
    """Make a program that is called as ours is."""
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
    """With the venv's path, unless the shell finds the program by its name."""
    program = script(tmp_path)
    monkeypatch.delenv("GRISTMILL_DATA_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [called.format(folder=tmp_path), "demo"])
    monkeypatch.setenv("PATH", f"{program.parent if on_path else '/nowhere'}:/usr/bin")
    assert (shutil.which("gristmill") is not None) is on_path

    assert typed("up") == as_typed


def test_a_command_names_the_data_folder_that_the_environment_names(monkeypatch) -> None:
    """Whoever set it for one command only would not find the system with the next."""
    monkeypatch.setattr(sys, "argv", ["gristmill"])
    monkeypatch.setenv("GRISTMILL_DATA_DIR", "/data/my system")

    assert typed("down") == "GRISTMILL_DATA_DIR='/data/my system' gristmill down"
