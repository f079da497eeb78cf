"""A domain in its own package, installed beside gristmill's wheel in a clean environment with the page's commands."""

import os
import re
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from local.embedded import EmbeddedServers
from local.supervision_status import stop_supervisor
from tests.support.copied_tree import OURS, PACKAGES
from tests.support.paths import ROOT

pytestmark = pytest.mark.e2e

INSTALL_SECONDS = 600
EXAMPLE = ROOT / "examples" / "tickets"
PAGE = (ROOT / "docs" / "new-domain.md").read_text(encoding="utf-8").partition("\n## A domain in a repository of")[2]
UNREACHABLE = ("connection", "name resolution", "failed to fetch", "timed out", "no route to host", "could not connect")


def files() -> dict[str, str]:
    """Return the files of the page's section."""
    return dict(re.findall(r"^```(?:python|toml)\n# (\S+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


def commands() -> list[str]:
    """Return the commands of the page's section."""
    [block] = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(block).splitlines()


def test_the_page_shows_the_files_of_the_example() -> None:
    """The page shows all files unchanged."""
    there = {
        path.relative_to(EXAMPLE).as_posix(): path.read_text(encoding="utf-8")
        for path in EXAMPLE.rglob("*")
        if path.suffix in {".py", ".toml"}
    }

    assert files() == there


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A new environment with pip and gristmill's wheel, without this working tree."""
    tree = tmp_path_factory.mktemp("source")
    for name in (*PACKAGES, "pyproject.toml", "README.md", "LICENSE"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tree / name)
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tree / "dist")]
    subprocess.run(build, cwd=tree, check=True, timeout=120)
    [wheel] = (tree / "dist").glob("*.whl")
    home = tmp_path_factory.mktemp("environment") / "venv"
    uv = shutil.which("uv")
    venv.create(home, with_pip=uv is None)
    python = home / "bin" / "python"
    install = [uv, "pip", "install", "--python", str(python)] if uv else [str(python), "-m", "pip", "install"]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith((*OURS, "PYTHON"))}
    env = {**inherited, "PATH": f"{home / 'bin'}:{inherited['PATH']}", "VIRTUAL_ENV": str(home)}
    done = subprocess.run(
        [*install, "--quiet", f"{wheel}[testing]", "pip"],
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=INSTALL_SECONDS,
    )
    if done.returncode != 0 and any(word in done.stderr.lower() for word in UNREACHABLE):
        pytest.skip(f"no package registry answers: {done.stderr.strip().splitlines()[-1][:200]}")
    assert done.returncode == 0, done.stderr
    return env


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Path]:
    """A folder with the files of the page. A system that `gristmill up` started there is stopped."""
    for name, content in files().items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    yield tmp_path
    data_dir = tmp_path / ".gristmill"
    if data_dir.exists():
        stop_supervisor(data_dir, timeout=timedelta(seconds=60))
        EmbeddedServers(data_dir).remove()


def run(command: str, *, folder: Path, env: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """Run a command line in a shell."""
    return subprocess.run(
        ["sh", "-c", command],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=INSTALL_SECONDS,
    )


def run_until_well(
    command: str, *, folder: Path, env: dict[str, str], within: float
) -> "subprocess.CompletedProcess[str]":
    """Run a command line; repeat it for up to ``within`` seconds while it fails."""
    give_up = time.monotonic() + within
    while True:
        done = run(command, folder=folder, env=env)
        if done.returncode == 0 or time.monotonic() >= give_up:
            return done


def test_the_page_brings_a_job_of_the_package_to_its_end(environment: dict[str, str], repository: Path) -> None:
    """The package is installed, tested, migrated, checked by doctor and run by real roles. Then it is removed."""
    said: dict[str, str] = {}
    for command in commands():
        if command == "gristmill down":
            check_removal(environment, repository)
        # Roles that have just started may have no heartbeat yet, so the command is repeated.
        within = 60 if command == "gristmill doctor" else 0
        done = run_until_well(command, folder=repository, env=environment, within=within)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        said[" ".join(command.split()[:2])] = done.stdout

    assert "3 passed" in said["pytest"]
    assert re.search(r"schema of tickets +at 0001, newest is 0001", said["gristmill doctor"]), said
    job_id = said["gristmill enqueue"].split()[0]
    [row] = [line for line in said["gristmill jobs"].splitlines() if line.startswith(job_id)]
    assert row.split()[1:3] == ["tickets.triage", "completed"]


def check_removal(environment: dict[str, str], repository: Path) -> None:
    """Fail unless doctor reports a domain that has tables and no package."""
    run("pip uninstall --yes gristmill-tickets", folder=repository, env=environment)

    doctor = run("gristmill doctor", folder=repository, env=environment)

    assert re.search(r"schema of tickets +at 0001, but no installed package brings it", doctor.stdout), doctor
