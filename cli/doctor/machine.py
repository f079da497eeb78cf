"""Checks of this machine."""

import platform
import shutil
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from cli.doctor.check import Check, ok_or_failed
from workers.runtime.handler.discovery import BrokenHandlers
from workers.runtime.handler.registry import discover

MIN_FREE_BYTES = 500_000_000


def check_machine(data_dir: Path) -> list[Check]:
    """Return the checks of this machine."""
    return [_python(), _packages(), _handlers(), _disk(data_dir)]


def _python() -> Check:
    return Check("Python", "ok", f"{platform.python_version()} on {platform.platform(terse=True)}")


def _packages() -> Check:
    """Compare the installed packages with those that this release needs."""
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
    return ok_or_failed("packages", found, ok=not wrong, remedy="run `make setup`")


def _handlers() -> Check:
    """Load every handler, as each role does at its start."""
    try:
        stages = discover()
    except BrokenHandlers as error:
        return Check("handlers", "failed", str(error), "repair the file at that line; until then no role starts")
    return Check("handlers", "ok", f"{len(stages)} stages")


def _disk(data_dir: Path) -> Check:
    """Check that the disk of the data folder has enough free space for the servers."""
    folder = data_dir.resolve()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    remedy = "free some space, or set GRISTMILL_DATA_DIR to another disk"
    return ok_or_failed("disk", f"{free / 1e9:.1f} GB free for {data_dir}", ok=free >= MIN_FREE_BYTES, remedy=remedy)
