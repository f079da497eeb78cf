"""A peer's own virtual environment, made once in the user's cache: nothing of a peer comes near the project's lock."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def installed(name: str, requirements: Sequence[str]) -> Path:
    """Return the Python of an environment with exactly these packages, installing it where it is not there yet."""
    wanted = hashlib.sha256("\n".join([sys.version, *requirements]).encode()).hexdigest()[:8]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gristmill-bench"
    home = cache / f"{name}-{wanted}"
    python, ready = home / "bin" / "python", home / ".installed"
    if not ready.exists():
        _quietly([sys.executable, "-m", "venv", "--clear", str(home)])
        options = ["--quiet", "--disable-pip-version-check", "--no-input"]
        _quietly([str(python), "-m", "pip", "install", *options, *requirements])
        ready.touch()
    return python


def _quietly(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise RuntimeError(f"{' '.join(command[1:4])} … failed: {last}")
