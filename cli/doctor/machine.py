"""Checks of this machine."""

import platform
import shutil
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from cli.doctor.check import Check, verdict
from workers.runtime.handler.discovery import BrokenHandlers
from workers.runtime.handler.registry import discover

LEAST_FREE_BYTES = 500_000_000


def python() -> Check:
    """Tell which Python runs."""
    return Check("Python", "ok", f"{platform.python_version()} on {platform.platform(terse=True)}")


def packages() -> Check:
    """Hold what is installed against what this release asks for."""
    wrong = []
    wanted = [Requirement(line) for line in requires("gristmill") or () if "extra ==" not in line]
    for requirement in wanted:
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
        else:
            if not requirement.specifier.contains(installed, prereleases=True):
                wrong.append(f"{requirement.name} is {installed}, wanted {requirement.specifier}")
    found = "; ".join(wrong) or f"all {len(wanted)} as required"
    return verdict("packages", found, well=not wrong, mend="run `make setup`")


def handlers() -> Check:
    """Load every handler, as each role does at its start."""
    try:
        stages = discover()
    except BrokenHandlers as error:
        return Check("handlers", "failed", str(error), "mend the file at that line; no role starts before")
    return Check("handlers", "ok", f"{len(stages)} stages")


def disk(data_dir: Path) -> Check:
    """Hold the free space of the data folder's disk against the least that servers need."""
    folder = data_dir.resolve()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    mend = "free some space, or set GRISTMILL_DATA_DIR to another disk"
    return verdict("disk", f"{free / 1e9:.1f} GB free for {data_dir}", well=free >= LEAST_FREE_BYTES, mend=mend)
