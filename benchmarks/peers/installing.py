"""A peer's own virtual environment, made once in the user's cache, so that peers do not change the project's lock."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

# The newest minor version of Python to look for.
_NEWEST = 14


def installed(name: str, requirements: Sequence[str], *, oldest: tuple[int, int]) -> Path:
    """Return the Python of an environment with exactly these packages; create it if it does not exist.

    It uses this Python, or, if the peer needs a newer one, the first suitable one on the PATH. Raises RuntimeError if
    there is none or the installation fails.
    """
    base = _base(name, oldest)
    wanted = hashlib.sha256("\n".join([base, sys.version, *requirements]).encode()).hexdigest()[:8]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gristmill-bench"
    home = cache / f"{name}-{wanted}"
    python, ready = home / "bin" / "python", home / ".installed"
    if not ready.exists():
        _quietly([base, "-m", "venv", "--clear", str(home)])
        options = ["--quiet", "--disable-pip-version-check", "--no-input"]
        _quietly([str(python), "-m", "pip", "install", *options, *requirements])
        ready.touch()
    return python


def _base(name: str, oldest: tuple[int, int]) -> str:
    if sys.version_info >= oldest:
        return sys.executable
    major, minor = oldest
    for newer in range(minor, _NEWEST + 1):
        if python := shutil.which(f"python{major}.{newer}"):
            return python
    raise RuntimeError(f"{name} needs Python {major}.{minor} or newer, and the PATH has none")


def _quietly(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise RuntimeError(f"{' '.join(command[1:4])} … failed: {last}")
