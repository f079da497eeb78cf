"""Logs of roles: limited in size, private to their owner, and read from the end."""

import os
import stat
import threading
from itertools import islice
from pathlib import Path

import pytest

from local.data_dir import last_line, open_log, rotate_log
from local.logs import LogLine, choose_roles, follow_logs, last_lines
from workers.runtime.refusals import Failed, Refusal


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The logs of two workers and a dispatcher."""
    for role in ("worker-1", "worker-2", "dispatcher"):
        with open_log(tmp_path / "logs", role) as log:
            log.write(f"{role} starts\n".encode())
    return tmp_path / "logs"


def test_a_role_is_named_alone_or_with_its_kind(folder: Path) -> None:
    """`worker` means every worker. The refusal of an unknown role names the known ones."""
    assert choose_roles(folder, None) == ["dispatcher", "worker-1", "worker-2"]
    assert choose_roles(folder, "worker") == ["worker-1", "worker-2"]
    assert choose_roles(folder, "worker-2") == ["worker-2"]
    with pytest.raises(Refusal, match=r"ROLE must be one of dispatcher, worker-1, worker-2, got 'bet'"):
        choose_roles(folder, "bet")


def test_without_logs_a_command_says_where_it_looked(tmp_path: Path) -> None:
    """The message names the folder, which may be the wrong one."""
    with pytest.raises(Failed, match=f"no role has written a log in {tmp_path / 'none'}"):
        choose_roles(tmp_path / "none", None)


def test_a_log_past_its_limit_is_rotated_while_its_role_writes(folder: Path) -> None:
    """The role keeps writing to its open file. One old log is kept. Only the owner may read the files."""
    path = folder / "worker-1.log"
    with open_log(folder, "worker-1") as log:
        log.write(b"x" * 5_000 + b"\n")
        is_rotated = rotate_log(path, limit=4_000)
        log.write(b"after\n")

    assert is_rotated
    assert path.read_bytes() == b"after\n"
    assert path.with_suffix(".log.1").stat().st_size == 5_017
    assert {stat.S_IMODE(one.stat().st_mode) for one in folder.iterdir()} == {0o600}
    assert not rotate_log(path, limit=4_000)


@pytest.mark.parametrize("size", [1, 70_000, 200_000])
def test_the_last_lines_are_those_at_the_end_whatever_the_size(folder: Path, size: int) -> None:
    """The log is read in chunks from the end, and the rotated log too if needed."""
    (folder / "worker-1.log.1").write_text(f"old {'o' * size}\n" * 3)
    (folder / "worker-1.log").write_text("".join(f"{number} {'n' * size}\n" for number in range(3)))

    lines = [one.line[:3] for one in last_lines(folder, "worker-1", 4)]

    assert lines == ["old", "0 n", "1 n", "2 n"]


def test_following_yields_new_lines_also_after_a_rotation_and_from_a_new_role(folder: Path) -> None:
    """Only complete lines are yielded, each one once."""
    followed = follow_logs(folder, None, lines=1)
    first = list(islice(followed, 3))

    def write() -> None:
        with open_log(folder, "worker-1") as log:
            log.write(b"half")
            log.write(b" and half\n")
            rotate_log(folder / "worker-1.log", limit=1)
            log.write(b"x\n")
        with open_log(folder, "beat") as log:
            log.write(b"tick\n")

    writer = threading.Timer(0.05, write)
    writer.start()
    new_lines = list(islice(followed, 3))
    writer.join()

    assert [one.role for one in first] == ["dispatcher", "worker-1", "worker-2"]
    assert [one.line for one in new_lines if one.role == "worker-1"] == ["half and half", "x"]
    assert LogLine("beat", "tick") in new_lines


def test_the_last_line_of_a_process_is_the_reason_of_its_end(folder: Path) -> None:
    """Only lines of this process count, and the command's name is removed."""
    path = folder / "worker-1.log"
    before = path.stat().st_size
    assert last_line(path, before) == ""

    with path.open("a") as log:
        log.write("gristmill: handlers cannot be loaded\n\n")

    assert last_line(path, before) == "handlers cannot be loaded"
    os.truncate(path, 0)
    assert last_line(path, before) == ""
