"""The revisions of this release, and what a database's revision means to it.

Reads the revision files as text: every role asks this at its start, and importing Alembic costs each a second.
"""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import migrations
from workers.runtime.refusals import Failed

VERSIONS = Path(migrations.__file__).parent / "versions"
CURRENT = "SELECT version_num FROM public.alembic_version"

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


def position_of(current: str | None) -> Position:
    """Return what ``current``, a database's revision, means to this release."""
    known = revisions()
    return Position(current, known[-1], current is None or current in known)


@cache
def revisions() -> tuple[str, ...]:
    """Return every revision of this release, oldest first. The history is one line, without branches.

    Raise Failed for a file that is no revision, and for one that does not fit into the line.
    """
    after: dict[str | None, tuple[str, str]] = {}
    for path in sorted(VERSIONS.glob("[!_]*.py")):
        text = path.read_text(encoding="utf-8")
        revision, down = _REVISION.search(text), _DOWN.search(text)
        if revision is None or down is None:
            missing = "revision" if revision is None else "down_revision"
            raise Failed(f'revision file {path.name} must have a line such as {missing} = "0001"')
        if (other := after.get(down[1])) is not None:
            raise Failed(
                f"revisions {other[1]} and {path.name} both come after {down[1] or 'none'}: "
                f"one of them needs another down_revision"
            )
        after[down[1]] = revision[1], path.name
    ordered: list[str] = []
    while (following := after.pop(ordered[-1] if ordered else None, None)) is not None:
        ordered.append(following[0])
    for down_revision, (_, name) in after.items():
        raise Failed(f"revision {name} comes after {down_revision!r}, which is no revision")
    return tuple(ordered)
