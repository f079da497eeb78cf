"""Profiles that every machine has, without a licence: the Python packages installed here."""

import re
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageMetadata, distributions
from typing import Any

from workers.scoring.profiles import NewProfile

MAX_PACKAGES = 60
_MAX_DESCRIPTION_CHARACTERS = 6_000
_MAX_VALUES = 40


def list_packages(*, limit: int = MAX_PACKAGES) -> list[NewProfile]:
    """Return up to ``limit`` installed packages as profiles, spread over the alphabet; always the same ones."""
    found: dict[str, Distribution] = {}
    for distribution in distributions():
        name = _normal(distribution.name or "")
        if name and name != "gristmill":
            found.setdefault(name, distribution)  # Python imports the first one on the path
    names = sorted(found)
    chosen = names if len(names) <= limit else [names[index * len(names) // limit] for index in range(limit)]
    return [NewProfile(found[name].name, describe_package(found[name])) for name in chosen]


def describe_package(distribution: Distribution) -> dict[str, Any]:
    """Return the attributes of a package from its metadata, without empty ones."""
    metadata = distribution.metadata
    attributes = {
        "summary": _first(metadata, "Summary"),
        "description": (_first(metadata, "Description") or _payload(metadata))[:_MAX_DESCRIPTION_CHARACTERS],
        "release": distribution.version,
        "license": _first(metadata, "License-Expression") or _first(metadata, "License")[:200],
        "author": _first(metadata, "Author") or _first(metadata, "Author-email"),
        "keywords": _first(metadata, "Keywords"),
        "supported_python": _first(metadata, "Requires-Python"),
        "links": _links(metadata),
        "classifiers": _all(metadata, "Classifier"),
        "requires": [line.partition(";")[0].strip() for line in (distribution.requires or ())[:_MAX_VALUES]],
    }
    return {name: value for name, value in attributes.items() if value}


def _links(metadata: PackageMetadata) -> dict[str, str]:
    pairs = [("Homepage", _first(metadata, "Home-page"))]
    for line in _all(metadata, "Project-URL"):
        label, _, url = line.partition(",")
        pairs.append((label.strip(), url.strip()))
    return {label: url for label, url in pairs if url}


def _first(metadata: PackageMetadata, field: str) -> str:
    return next(iter(_all(metadata, field)), "")


def _all(metadata: PackageMetadata, field: str) -> list[str]:
    """Return the values of ``field``, without empty ones. Old packages write UNKNOWN for an empty value."""
    values: Iterable[str] = metadata.get_all(field) or ()
    return [_storable(value) for value in values if value.strip() not in {"", "UNKNOWN"}][:_MAX_VALUES]


def _payload(metadata: PackageMetadata) -> str:
    """Return the body of the metadata. Newer packages have their description there."""
    body: Any = metadata
    content = body.get_payload()
    return _storable(content) if isinstance(content, str) else ""


def _storable(text: str) -> str:
    """Return ``text`` without NUL and halves of surrogate pairs, which Postgres cannot store."""
    return str(text).replace("\x00", "").encode("utf-8", "replace").decode()


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
