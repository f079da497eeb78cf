"""The wheel, installed without the lock as `pip install` does: it declares everything that it needs."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.copied_tree import OURS, PACKAGES
from tests.support.paths import ROOT

pytestmark = pytest.mark.e2e

INSTALL_SECONDS = 600
UNREACHABLE = (
    "connection",
    "name resolution",
    "failed to fetch",
    "timed out",
    "no route to host",
    "could not connect",
)
IMPORTS = """
import workers.transport.worker, workers.transport.dispatcher, workers.transport.beat, workers.transport.flower
import kombu.transport.redis, cli.main, gateway.server
from gateway.routes.docs import ASSETS
from workers.runtime.handler.registry import discover
print(*discover())
assert (ASSETS / "swagger-ui-bundle.js").is_file()
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this working tree, built with the installed build backend."""
    tree = tmp_path_factory.mktemp("source")
    for name in (*PACKAGES, "pyproject.toml", "README.md", "LICENSE"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tree / name)
    built = tree / "dist"
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", built], cwd=tree, check=True, timeout=120
    )
    [path] = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of a new environment with the wheel and its dependencies."""
    home = tmp_path_factory.mktemp("environment") / "venv"
    uv = shutil.which("uv")
    venv.create(home, with_pip=uv is None)
    python = home / "bin/python"
    command = [uv, "pip", "install", "--python", python] if uv else [python, "-m", "pip", "install", "--no-compile"]
    done = subprocess.run(
        [*map(str, command), "--quiet", str(wheel)],
        capture_output=True,
        text=True,
        check=False,
        timeout=INSTALL_SECONDS,
    )
    if done.returncode != 0 and any(word in done.stderr.lower() for word in UNREACHABLE):
        pytest.skip(f"no package registry answers: {done.stderr.strip().splitlines()[-1][:200]}")
    assert done.returncode == 0, done.stderr
    return home / "bin"


def run(
    program: Path, *arguments: str, cwd: Path, env: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    inherited = {name: value for name, value in os.environ.items() if not name.startswith((*OURS, "PYTHON"))}
    return subprocess.run(
        [program, *arguments],
        cwd=cwd,
        env={**inherited, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_the_wheel_holds_every_file_that_the_packages_have(wheel: Path) -> None:
    """It has not only the Python files, but also statements of revisions, templates and schemas."""
    with zipfile.ZipFile(wheel) as content:
        held = set(content.namelist())
    wanted = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    assert wanted - held == set()
    assert any(name.endswith(".sql") for name in held)
    assert "migrations/script.py.mako" in held


@pytest.mark.parametrize("command", [("--help",), ("--version",), ("config",), ("doctor", "--help")], ids=" ".join)
def test_commands_run_without_the_lock(installed: Path, tmp_path: Path, command: tuple[str, ...]) -> None:
    """These are the first commands after `pip install`."""
    done = run(installed / "gristmill", *command, cwd=tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    assert "gristmill" in done.stdout.lower()


def test_the_schema_comes_with_the_wheel(installed: Path, tmp_path: Path, empty_database_url: str) -> None:
    """`gristmill migrate` finds its revisions and their statements."""
    done = run(installed / "gristmill", "migrate", cwd=tmp_path, env={"DATABASE_URL": empty_database_url})

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("migrated from an empty database to ")


def test_a_worker_can_import_every_stage_and_the_transport(installed: Path, tmp_path: Path) -> None:
    """No package is missing that only the lock installs, such as `packaging`, which kombu does not declare."""
    done = run(installed / "python", "-c", IMPORTS, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert {"scoring.score", "ingestion.ingest", "assessment.assess"} <= set(done.stdout.split())
