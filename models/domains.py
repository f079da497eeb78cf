"""Domains of other packages: each is a package named by an entry point of the group ``gristmill.domains``.

They are found without an import, because every role reads their revisions when it starts.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path

from sqlalchemy import Table

from models.base import Base

GROUP = "gristmill.domains"

# The name becomes part of a table name (``public.alembic_version_NAME``), which is written without quotes.
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


@dataclass(frozen=True, slots=True)
class Domain:
    """A domain of another package.

    Its parts have fixed names: ``models`` and ``handlers`` (each a module or a package) and the folder ``migrations``
    with its revisions. ``problem`` says why the domain cannot be used.
    """

    name: str
    package: str
    distribution: str
    folder: Path | None = None
    problem: str | None = None

    @property
    def place(self) -> str:
        """The place that an error names if it has no line of a file."""
        return f"domain {self.name!r} of {self.distribution}"

    @property
    def versions(self) -> Path | None:
        """The folder with its revisions; None if it has none."""
        folder = self.folder / "migrations" if self.folder else None
        return folder if folder and folder.is_dir() else None

    @property
    def home(self) -> Path | None:
        """The folder from which its package is imported; paths in errors are relative to it."""
        depth = len(self.package.split("."))
        return self.folder.parents[depth - 1] if self.folder else None

    def has(self, part: str) -> bool:
        """Tell whether the package has this module or package."""
        if self.folder is None:
            return False
        return (self.folder / f"{part}.py").is_file() or (self.folder / part / "__init__.py").is_file()


@cache
def installed() -> tuple[Domain, ...]:
    """Return the domains of all installed packages, by name. An invalid domain has a ``problem``."""
    domains = [_look_at(point) for point in entry_points(group=GROUP)]
    first: dict[str, Domain] = {}
    found = []
    for domain in sorted(domains, key=lambda domain: (domain.name, domain.distribution)):
        if (other := first.setdefault(domain.name, domain)) is not domain:
            # A package that is on the path twice is one domain.
            if (other.package, other.distribution) == (domain.package, domain.distribution):
                continue
            problem = f"is also brought by {other.distribution}: uninstall one of them"
            domain = Domain(domain.name, domain.package, domain.distribution, problem=problem)  # noqa: PLW2901
        found.append(domain)
    return tuple(found)


def _look_at(point: EntryPoint) -> Domain:
    distribution = point.dist.name if point.dist else "an unknown package"
    folder, problem = None, None
    if not _NAME.fullmatch(point.name):
        problem = "must have a name of at most 40 small letters, digits and underscores that begins with a letter"
    elif (folder := _folder(point.value)) is None:
        problem = f"names {point.value!r} as its package, which does not exist"
    domain = Domain(point.name, point.value, distribution, folder, problem)
    if problem is None and not (domain.has("models") or domain.has("handlers") or domain.versions):
        problem = f"has no models, no handlers and no migrations in {point.value!r}"
        return Domain(point.name, point.value, distribution, folder, problem)
    return domain


def _folder(package: str) -> Path | None:
    """Return the folder of a package. Only a package with a dot in its name needs an import of its parent for this."""
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        return None
    places = list(spec.submodule_search_locations or ()) if spec and spec.origin else []
    return Path(places[0]) if places else None


def problems() -> dict[str, str]:
    """Return the problems of installed domains: the reason by place. Only imported models are checked."""
    found = {domain.place: domain.problem for domain in installed() if domain.problem}
    owners: dict[str, str] = {}
    for schema, owner, table in sorted(_claims()):
        if schema in {"", "public"}:
            found[owner] = f"table {table!r} must have a schema of the domain's own"
        elif (first := owners.setdefault(schema, owner)) != owner:
            found[owner] = f"schema {schema!r} belongs to {first or 'gristmill'}: choose another name"
    return found


def schemas_of(domain: Domain | None) -> frozenset[str]:
    """Return the schemas of a domain's models; for None, those of gristmill. The models must be imported already."""
    if domain:
        return frozenset(schema for schema, owner, _ in _claims() if owner == domain.place)
    foreign = {schema for schema, owner, _ in _claims() if owner}
    return frozenset(str(table.schema) for table in Base.metadata.tables.values()) - foreign


def _claims() -> Iterator[tuple[str, str, str]]:
    """Yield (schema, owner, name) of the table of each model. The owner is the place of a domain, "" for gristmill."""
    for mapper in Base.registry.mappers:
        module = mapper.class_.__module__
        owner = next((one.place for one in installed() if f"{module}.".startswith(f"{one.package}.")), "")
        if isinstance(table := mapper.local_table, Table):
            yield table.schema or "", owner, table.name
