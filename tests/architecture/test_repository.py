"""The repository's own tools: the targets of `make`, the messages of a first set-up, CI and the license."""

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from tests.support.paths import ROOT

TARGETS = {
    "setup",
    "demo",
    "test",
    "check",
    "up",
    "down",
    "bench",
    "fuzz",
    "chaos",
    "quota",
    "client",
    "fmt",
    "lock",
    "clean",
    "secrets",
    "help",
}


def make(*arguments: str, cwd: Path = ROOT, path: str = "/usr/bin:/bin") -> subprocess.CompletedProcess[str]:
    environment = {"PATH": path, "HOME": str(cwd)}
    return subprocess.run(
        ["make", *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=60
    )


def without_uv() -> str:
    """Return a PATH without uv, like on a machine that has only Python."""
    folders = os.get_exec_path()
    return os.pathsep.join(folder for folder in folders if not (Path(folder) / "uv").exists())


@pytest.fixture
def clone(tmp_path):
    """A folder with only the files that the set-up reads."""
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def test_make_alone_lists_every_target():
    """`make` shows a new user every target with its meaning."""
    listed = re.findall(r"^  make ([a-z]+) +\S.+$", make().stdout, re.MULTILINE)

    assert set(listed) == TARGETS
    assert len(listed) == len(TARGETS)


def test_set_up_without_python_says_what_to_install(clone):
    """It prints one line with the remedy and leaves no incomplete files."""
    run = make("setup", "PYTHON=python-that-is-not-there", cwd=clone, path=without_uv())

    assert run.returncode != 0
    assert run.stderr.splitlines()[0] == "Python 3.11 or newer is needed: install python3 and python3-venv, or uv"
    assert not (clone / ".venv").exists()


def test_set_up_without_venv_says_what_to_install(clone):
    """Debian's python3 has no ensurepip. The line names the package."""
    python = clone / "python3"
    python.write_text('#!/bin/sh\ncase "$2" in *ensurepip*) exit 1 ;; esac\n')
    python.chmod(0o755)

    run = make("setup", f"PYTHON={python}", cwd=clone, path=without_uv())

    assert run.returncode != 0
    assert "has no venv module: install it (Debian, Ubuntu: apt install python3-venv) or uv" in run.stderr


def test_set_up_runs_again_only_when_a_dependency_changed(clone):
    """The second `make demo` starts without a set-up."""
    stamp = clone / ".venv" / ".installed"
    stamp.parent.mkdir()
    stamp.touch()
    assert make("--question", "setup", cwd=clone).returncode == 0

    later = stamp.stat().st_mtime + 10
    os.utime(clone / "requirements.lock", (later, later))

    assert make("--question", "setup", cwd=clone).returncode == 1


def test_secrets_are_made_once_and_kept(clone):
    """A second `make secrets` keeps the passwords of an existing database."""
    make("secrets", cwd=clone)
    secrets = {file.name: file.read_text() for file in (clone / "secrets").iterdir()}
    again = make("secrets", cwd=clone)

    assert again.returncode == 0, again.stderr
    assert {file.name: file.read_text() for file in (clone / "secrets").iterdir()} == secrets
    assert re.fullmatch(r"[0-9a-f]{48}", secrets["postgres_password"])
    assert secrets["postgres_password"] in secrets["database_url"]
    assert stat.S_IMODE((clone / "secrets").stat().st_mode) == stat.S_IRWXU


def test_ci_is_executable_shell():
    """CI and people start the same script."""
    run = subprocess.run(["bash", "-n", ROOT / ".ci/run"], capture_output=True, check=False)

    assert run.returncode == 0, run.stderr
    assert os.access(ROOT / ".ci/run", os.X_OK)


def test_license_is_the_declared_one():
    """The file and the metadata name the same license."""
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    assert 'license = "Apache-2.0"' in (ROOT / "pyproject.toml").read_text()
