"""A copy of our packages, like a contributor's clone, for tests that add files to them."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.paths import ROOT

PACKAGES = ("cli", "config", "gateway", "gristmill_testing", "local", "migrations", "models", "workers")
OURS = ("GRISTMILL_", "DATABASE_URL", "REDIS_URL", "OPENAI_")
PATIENCE_SECONDS = 120


@dataclass(frozen=True, slots=True)
class CopiedTree:
    """A folder with our packages. ``run`` starts its ``gristmill``, not the installed one."""

    folder: Path
    env: Mapping[str, str] = field(default_factory=dict, repr=False)

    def write(self, name: str, content: str) -> None:
        """Write one file; create its folder if needed."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")

    def python(self, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run Python on the copy; return the completed process."""
        return subprocess.run(
            [sys.executable, "-P", *arguments],
            cwd=self.folder,
            env=self.environment(env),
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_SECONDS,
        )

    def run(self, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run one command of the copy."""
        return self.python("-m", "cli.main", *arguments, env=env)

    def shell(self, command: str, *, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command line in a shell."""
        return subprocess.run(
            ["sh", "-c", command],
            cwd=self.folder,
            env=self.environment(env),
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_SECONDS,
        )

    def environment(self, env: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return an environment in which Python imports the copy."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        return {**inherited, "PYTHONPATH": str(self.folder), **self.env, **(env or {})}


def copy_tree(folder: Path, **env: str) -> CopiedTree:
    """Copy the packages to ``folder``."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    return CopiedTree(folder, env)
