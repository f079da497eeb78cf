"""`gristmill demo` as a new user runs it, twice, and the commands that it recommends."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from local.embedded import EmbeddedServers
from local.supervision_status import read_status, stop_supervisor
from tests.support.copied_tree import OURS

pytestmark = pytest.mark.e2e

PROGRAM = Path(sys.prefix) / "bin" / "gristmill"
PATIENCE_SECONDS = 300
FLOWER_PORT = 5555


class Newcomer:
    """A new user in an own folder, with a venv that is not on the path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data_dir = folder / ".gristmill"
        (folder / ".venv" / "bin").mkdir(parents=True)
        (folder / ".venv" / "bin" / "gristmill").symlink_to(PROGRAM)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        self.env = {**inherited, "HOME": str(folder), "PATH": "/usr/bin:/bin"}
        self.env.pop("PYTHONDONTWRITEBYTECODE", None)

    def types(self, line: str) -> str:
        """Run a command line that must succeed; return its output and error output."""
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=self.folder,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=PATIENCE_SECONDS,
        )
        assert done.returncode == 0, done.stdout
        assert "Traceback" not in done.stdout
        return done.stdout


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Newcomer]:
    """A new user. Everything is stopped and removed afterwards."""
    newcomer = Newcomer(tmp_path_factory.mktemp("newcomer"))
    yield newcomer
    if newcomer.data_dir.exists():
        stop_supervisor(newcomer.data_dir, timeout=timedelta(seconds=60))
        EmbeddedServers(newcomer.data_dir).remove()


@pytest.fixture(scope="module")
def taken() -> Iterator[int]:
    """Flower's default port, taken by another program."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            other.bind(("127.0.0.1", FLOWER_PORT))
        except OSError:
            yield FLOWER_PORT  # another program has it
            return
        other.listen()
        yield FLOWER_PORT


@pytest.fixture(scope="module")
def said(newcomer: Newcomer, taken: int) -> str:
    """The output of the first demonstration."""
    assert taken
    return newcomer.types(".venv/bin/gristmill demo")


def next_commands(said: str) -> list[str]:
    """Return the commands below "Next:"."""
    return [line.strip() for line in said.partition("Next:\n")[2].splitlines()]


def test_the_demo_scores_ingests_embeds_aligns_and_assesses(said: str) -> None:
    """It needs no network, key or configuration. It prints scores with reasons, verdicts, and how they were made."""
    assert "Best" in said
    assert "Worst" in said
    assert "rule-based, not an AI judgement" in said
    first, second = (line for line in said.splitlines() if "round: " in line and " jobs in " in line)
    assert "0 failed" in first
    assert "0 answered from identical earlier jobs" in first
    assert "; 0 evaluated, " in second
    assert "duplicate_in_file" in said
    assert "task against guidelines.pdf: " in said
    assert "rated 1 to 7 by offline-rubric-v1" in said
    assert re.search(r'most like ".*" \(compares words, not meanings\):', said)
    assert re.search(r"^FAIR  0\.\d\d  \(composite, by offline-rubric-v1\)$", said, re.MULTILINE)
    assert "CARRIER_TOKEN looks like a secret" in said


def test_a_taken_flower_port_is_replaced_and_reported(said: str) -> None:
    """The demonstration uses another port and prints the address that answers."""
    [other] = re.findall(
        rf"^Port {FLOWER_PORT} is taken by another process: Flower answers on (\d+) instead", said, re.MULTILINE
    )

    assert f"http://127.0.0.1:{other}/tasks" in said


def test_the_servers_are_stopped_and_the_three_next_commands_work(newcomer: Newcomer, said: str) -> None:
    """Each command works as printed. It starts the system again and finds the results of the demonstration."""
    commands = next_commands(said)
    assert read_status(newcomer.data_dir) is None
    assert [command.split()[:2] for command in commands] == [
        [".venv/bin/gristmill", "up"],
        [".venv/bin/gristmill", "assessments"],
        [".venv/bin/gristmill", "similar"],
    ]

    started, assessed, similar = map(newcomer.types, commands)

    assert started.startswith("running")
    assert "state       completed" in assessed
    assert "compares words, not meanings" in similar
    assert len(similar.splitlines()) > 5


def test_a_second_demonstration_uses_what_runs_and_leaves_it_running(newcomer: Newcomer, said: str) -> None:
    """The results of the first run exist: its answers are reported as earlier ones, and the run succeeds."""
    again = newcomer.types(".venv/bin/gristmill demo")

    assert "Using the system that runs in .gristmill" in again
    assert "Some answers of the 1st round come from an earlier run" in again
    assert next_commands(again)[-1] == ".venv/bin/gristmill down"
    assert next_commands(again)[0] != next_commands(said)[1]


def test_clean_removes_what_demonstrations_have_left_and_nothing_else(newcomer: Newcomer, said: str) -> None:
    """It works while the system is stopped. The second time there is nothing to do."""
    assert said
    newcomer.types(".venv/bin/gristmill projects create mine")
    newcomer.types(".venv/bin/gristmill down")

    cleaned = newcomer.types(".venv/bin/gristmill demo --clean")
    nothing = newcomer.types(".venv/bin/gristmill demo --clean")

    assert re.fullmatch(
        r"removed 240 jobs, 60 profiles, 2 assessments, 2 projects; the history of the jobs stays\n", cleaned
    )
    assert nothing == f"there are no results of demonstrations in {newcomer.data_dir}\n"
    newcomer.types(".venv/bin/gristmill up --detach")
    assert re.findall(r"^(\S+)", newcomer.types(".venv/bin/gristmill projects list"), re.MULTILINE) == [
        "PROJECT",
        "mine",
    ]
    assert newcomer.types(".venv/bin/gristmill jobs list") == "no jobs match\n"
    newcomer.types(".venv/bin/gristmill down")
