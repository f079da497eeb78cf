"""Find problems in the description of an MCP server by fixed rules, without a model. Pure."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

MIN_DESCRIPTION_CHARACTERS = 20
MAX_QUOTED_NAME = 80

_NAMESPACED = re.compile(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+/[A-Za-z0-9._-]+")
_SECRET = re.compile(r"(?i)(^|_)(api_?key|key|token|secret|password|passwd|pwd|credentials?|auth)(_|$)")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[-.]")
_LIVE_SECRET = re.compile(
    r"\b(sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|xox[abp]-[A-Za-z0-9-]{10,}|AKIA[A-Z0-9]{16})\b"
)
_FLOATING = frozenset({"", "latest", "*", "main", "master"})


def findings(server: Mapping[str, Any]) -> list[str]:
    """Return the problems of a description, most serious first, each in one line that never holds a secret's value.

    A document of any shape is accepted: unknown parts are skipped, because the schema check reports them.
    """
    return [*_secrets(server), *_origin(server), *_installation(server), *_wording(server)]


def variables(server: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return every environment variable and header that a user must set, each with its place."""
    places = [("packages", "environment_variables"), ("packages", "environmentVariables"), ("remotes", "headers")]
    return [
        (f"{lists}[{index}].{inner}[{nth}]", variable)
        for lists, inner in places
        for index, entry in _objects(server.get(lists))
        for nth, variable in _objects(entry.get(inner))
    ]


def _secrets(server: Mapping[str, Any]) -> Iterator[str]:
    for place, variable in variables(server):
        name = _quotable(str(variable.get("name", "")))
        if any(_LIVE_SECRET.search(str(value)) for value in variable.values()):
            yield f"{place}: {name} seems to hold a live secret"
        marked = variable.get("is_secret") or variable.get("isSecret")
        if _SECRET.search(_CAMEL.sub("_", name)) and not marked:
            yield f"{place}: {name} looks like a secret and is not marked is_secret"
        if not str(variable.get("description") or "").strip():
            yield f"{place}: {name} has no description"


def _origin(server: Mapping[str, Any]) -> Iterator[str]:
    repository = server.get("repository")
    url = str(repository.get("url") or "") if isinstance(repository, dict) else ""
    if not url:
        yield "no repository is named"
    for place, address in [
        ("repository", url),
        *((f"remotes[{i}]", str(r.get("url", ""))) for i, r in _objects(server.get("remotes"))),
    ]:
        if address.startswith("http://"):
            yield f"{place}: its address is not encrypted (http)"


def _installation(server: Mapping[str, Any]) -> Iterator[str]:
    packages = _objects(server.get("packages"))
    if not packages and not _objects(server.get("remotes")):
        yield "neither a package nor a remote: nobody can use it"
    for index, package in packages:
        registry = package.get("registry_name") or package.get("registryType") or package.get("registry_type")
        if registry in (None, "", "unknown"):
            yield f"packages[{index}]: the registry that holds it is unknown"
        if str(package.get("version") or "").strip().lower() in _FLOATING:
            yield f"packages[{index}]: its version is not pinned"


def _wording(server: Mapping[str, Any]) -> Iterator[str]:
    name, description = str(server.get("name") or ""), str(server.get("description") or "").strip()
    if not _NAMESPACED.fullmatch(name):
        yield "the name is not of the form namespace/server with a reverse-DNS namespace"
    if len(description) < MIN_DESCRIPTION_CHARACTERS:
        yield f"the description has only {len(description)} characters"


def _quotable(name: str) -> str:
    """Return a name to quote: short, on one line, and hidden if it looks like a secret."""
    return "(hidden)" if _LIVE_SECRET.search(name) else " ".join(name.split())[:MAX_QUOTED_NAME]


def _objects(value: object) -> list[tuple[int, Mapping[str, Any]]]:
    """Return the objects of a list, each with its index."""
    return [(i, item) for i, item in enumerate(value) if isinstance(item, dict)] if isinstance(value, list) else []
