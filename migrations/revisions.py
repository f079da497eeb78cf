"""The revisions of this release and of installed domains, and what a database's revision means to them.

Each domain of another package has a history of its own: its revisions form one line, and its position stands in a
table of its own (``public.alembic_version_NAME``). So ``public.alembic_version`` keeps its one row, which the previous
release reads. Gristmill's own revisions always run first.

Reads the revision files as text: every role asks this at its start, and importing Alembic costs each a second.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import migrations
from models.domains import Domain, installed
from workers.runtime.refusals import Failed

VERSIONS = Path(migrations.__file__).parent / "versions"
# Domains of other packages use the kernel of this revision or a newer one.
FIRST_FOR_DOMAINS = "0013"

_REVISION = re.compile(r"""^revision(?:: str)? = ["']([^"']+)["']""", re.MULTILINE)
_DOWN = re.compile(r"""^down_revision(?:: [^=]+)? = (?:["']([^"']+)["']|None)""", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Position:
    """Where a database stands. ``known`` is false where a newer release has migrated it."""

    current: str | None
    head: str
    known: bool

    @property
    def usable(self) -> bool:
        """Whether this release runs on it: at the head, or past it, as a newer release's migrations allow."""
        return self.current is not None and (self.current == self.head or not self.known)


def domains() -> tuple[Domain, ...]:
    """Return the installed domains that have revisions; raise Failed for a domain that cannot be used."""
    for domain in installed():
        if domain.problem:
            raise Failed(f"{domain.place}: {domain.problem}")
    return tuple(domain for domain in installed() if domain.versions)


def position_of(current: str | None, domain: Domain | None = None) -> Position:
    """Return what ``current``, a database's revision, means to this release, or to a domain."""
    known = revisions(domain)
    return Position(current, known[-1], current is None or current in known)


def left_domains(standing: Mapping[str, str]) -> dict[str, str]:
    """Return the domains of ``standing`` (revision by name) that no installed package brings."""
    known = {domain.name for domain in domains()}
    return {name: revision for name, revision in standing.items() if name not in known}


@cache
def revisions(domain: Domain | None = None) -> tuple[str, ...]:
    """Return every revision of this release, or of a domain, oldest first. A history is one line, without branches.

    Raise Failed for a file that is no revision, and for one that does not fit into the line.
    """
    folder = domain.versions if domain else VERSIONS
    assert folder is not None
    of = f" of {domain.place}" if domain else ""
    after: dict[str | None, tuple[str, str]] = {}
    for path in sorted(folder.glob("[!_]*.py")):
        text = path.read_text(encoding="utf-8")
        revision, down = _REVISION.search(text), _DOWN.search(text)
        if revision is None or down is None:
            missing = "revision" if revision is None else "down_revision"
            raise Failed(f'revision file {path.name}{of} must have a line such as {missing} = "0001"')
        if (other := after.get(down[1])) is not None:
            raise Failed(
                f"revisions {other[1]} and {path.name}{of} both come after {down[1] or 'none'}: "
                f"one of them needs another down_revision"
            )
        after[down[1]] = revision[1], path.name
    ordered: list[str] = []
    while (following := after.pop(ordered[-1] if ordered else None, None)) is not None:
        ordered.append(following[0])
    for down_revision, (_, name) in after.items():
        raise Failed(f"revision {name}{of} comes after {down_revision!r}, which is no revision")
    if not ordered:
        raise Failed(f"folder {folder} must hold a revision")
    return tuple(ordered)
