"""Profiles that every machine has and nobody must license: the Python packages installed here."""

import re
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageMetadata, distributions
from typing import Any

from workers.scoring.profiles import NewProfile

MOST = 60
_DESCRIPTION_CHARACTERS = 6_000
_LISTED = 40


def installed(*, most: int = MOST) -> list[NewProfile]:
    """Return up to ``most`` installed packages as profiles, spread over the alphabet; the same ones every time."""
    found: dict[str, Distribution] = {}
    for distribution in distributions():
        name = _normal(distribution.name or "")
        if name and name != "gristmill":
            found.setdefault(name, distribution)  # the first on the path is the one that is imported
    names = sorted(found)
    chosen = names if len(names) <= most else [names[index * len(names) // most] for index in range(most)]
    return [NewProfile(found[name].name, describe(found[name])) for name in chosen]


def describe(distribution: Distribution) -> dict[str, Any]:
    """Return what a package says of itself, without what it leaves out."""
    metadata = distribution.metadata
    attributes = {
        "summary": _first(metadata, "Summary"),
        "description": (_first(metadata, "Description") or _payload(metadata))[:_DESCRIPTION_CHARACTERS],
        "release": distribution.version,
        "license": _first(metadata, "License-Expression") or _first(metadata, "License")[:200],
        "author": _first(metadata, "Author") or _first(metadata, "Author-email"),
        "keywords": _first(metadata, "Keywords"),
        "supported_python": _first(metadata, "Requires-Python"),
        "links": _links(metadata),
        "classifiers": _all(metadata, "Classifier"),
        "requires": [line.partition(";")[0].strip() for line in (distribution.requires or ())[:_LISTED]],
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
    """Return the values of ``field`` that say something. Old packages write UNKNOWN where they have nothing to say."""
    values: Iterable[str] = metadata.get_all(field) or ()
    return [_storable(value) for value in values if value.strip() not in {"", "UNKNOWN"}][:_LISTED]


def _payload(metadata: PackageMetadata) -> str:
    """Return the body of the metadata, where newer packages put their description."""
    body: Any = metadata
    content = body.get_payload()
    return _storable(content) if isinstance(content, str) else ""


def _storable(text: str) -> str:
    """Return ``text`` without what Postgres cannot keep: NUL, and halves of characters."""
    return str(text).replace("\x00", "").encode("utf-8", "replace").decode()


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
