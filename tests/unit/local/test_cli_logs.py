"""Logs of roles: bounded, for their owner alone, and read from the end."""

import os
import stat
import threading
from itertools import islice
from pathlib import Path

import pytest

from local.data_dir import bound_log, last_line, open_log
from local.logs import Line, chosen, follow, last_lines
from workers.runtime.refusals import Failed, Refusal


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The logs of two workers and a dispatcher."""
    for role in ("worker-1", "worker-2", "dispatcher"):
        with open_log(tmp_path / "logs", role) as log:
            log.write(f"{role} starts\n".encode())
    return tmp_path / "logs"


def test_a_role_is_named_alone_or_with_its_kind(folder: Path) -> None:
    """`worker` means every worker; a role that never was names the known ones."""
    assert chosen(folder, None) == ["dispatcher", "worker-1", "worker-2"]
    assert chosen(folder, "worker") == ["worker-1", "worker-2"]
    assert chosen(folder, "worker-2") == ["worker-2"]
    with pytest.raises(Refusal, match=r"ROLE must be one of dispatcher, worker-1, worker-2, got 'bet'"):
        chosen(folder, "bet")


def test_without_logs_a_command_says_where_it_looked(tmp_path: Path) -> None:
    """Whoever asks in the wrong folder sees it."""
    with pytest.raises(Failed, match=f"no role has written a log in {tmp_path / 'none'}"):
        chosen(tmp_path / "none", None)


def test_a_log_past_its_limit_begins_anew_under_the_writer(folder: Path) -> None:
    """The role goes on writing to the file it has open; the former log is kept, once, and nobody else reads either."""
    path = folder / "worker-1.log"
    with open_log(folder, "worker-1") as log:
        log.write(b"x" * 5_000 + b"\n")
        turned = bound_log(path, limit=4_000)
        log.write(b"after\n")

    assert turned
    assert path.read_bytes() == b"after\n"
    assert path.with_suffix(".log.1").stat().st_size == 5_017
    assert {stat.S_IMODE(one.stat().st_mode) for one in folder.iterdir()} == {0o600}
    assert not bound_log(path, limit=4_000)


@pytest.mark.parametrize("size", [1, 70_000, 200_000])
def test_the_last_lines_are_those_at_the_end_whatever_the_size(folder: Path, size: int) -> None:
    """Read piece by piece from the end, over the turn of the log too."""
    (folder / "worker-1.log.1").write_text(f"old {'o' * size}\n" * 3)
    (folder / "worker-1.log").write_text("".join(f"{number} {'n' * size}\n" for number in range(3)))

    lines = [one.line[:3] for one in last_lines(folder, "worker-1", 4)]

    assert lines == ["old", "0 n", "1 n", "2 n"]


def test_following_tells_what_comes_also_after_a_turn_and_from_a_new_role(folder: Path) -> None:
    """Whole lines only, each once."""
    followed = follow(folder, None, lines=1)
    first = list(islice(followed, 3))

    def write() -> None:
        with open_log(folder, "worker-1") as log:
            log.write(b"half")
            log.write(b" and half\n")
            bound_log(folder / "worker-1.log", limit=1)
            log.write(b"x\n")
        with open_log(folder, "beat") as log:
            log.write(b"tick\n")

    writer = threading.Timer(0.05, write)
    writer.start()
    news = list(islice(followed, 3))
    writer.join()

    assert [one.role for one in first] == ["dispatcher", "worker-1", "worker-2"]
    assert [one.line for one in news if one.role == "worker-1"] == ["half and half", "x"]
    assert Line("beat", "tick") in news


def test_the_last_line_of_a_process_is_what_it_gave_up_with(folder: Path) -> None:
    """Only what it wrote itself counts, without the command's name."""
    path = folder / "worker-1.log"
    before = path.stat().st_size
    assert last_line(path, before) == ""

    with path.open("a") as log:
        log.write("gristmill: handlers cannot be loaded\n\n")

    assert last_line(path, before) == "handlers cannot be loaded"
    os.truncate(path, 0)
    assert last_line(path, before) == ""
