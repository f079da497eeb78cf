"""Import every handler file, and report each one that cannot be loaded with its line and the reason.

Handlers are in the rooms of ``workers`` and in the packages that bring a domain of their own (``models/domains.py``).
"""

import importlib
import pkgutil
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import models
from models import domains
from models.domains import Domain
from workers.runtime.refusals import Failed, cut

_MAX_LISTED = 5
# Handlers call these declarations. If a declaration raises, the line that called it is wrong.
_DECLARATIONS = ("models/base.py", "models/lifecycle.py")


class BrokenHandlers(Failed):
    """Handlers cannot be loaded. The message is one line: each file with its line and the reason."""

    def __init__(self, broken: dict[str, str]) -> None:
        lines = [f"{place}: {reason}" for place, reason in broken.items()]
        more = f"; and {len(lines) - _MAX_LISTED} more" if len(lines) > _MAX_LISTED else ""
        super().__init__(f"handlers cannot be loaded: {'; '.join(lines[:_MAX_LISTED])}{more}")


def load_all(package: str, *, without: frozenset[str]) -> dict[str, str]:
    """Import every module below the rooms of ``package``, except the rooms ``without`` handlers.

    Return what is broken: each place (file and line) once, with the reason.
    """
    root = importlib.import_module(package)
    blamed = _blame_domains(package.rpartition(".")[2])
    broken: dict[str, str] = {}
    for folder in map(Path, root.__path__):
        broken |= _folders_without_init(folder, without)
    for room in pkgutil.iter_modules(root.__path__, f"{package}."):
        if room.ispkg and room.name.rpartition(".")[2] not in without:
            _load(room.name, Path(next(iter(root.__path__))).parent, blamed, broken)
    return broken


def load_installed() -> dict[str, str]:
    """Import models and handlers of every installed domain; return what is broken, like :func:`load_all`."""
    broken: dict[str, str] = {}
    for domain in domains.installed():
        if domain.folder and domain.home and not domain.problem:
            broken |= _load_domain(domain, domain.folder, domain.home)
    if not broken:
        try:
            models.load_all()
        except Exception:  # noqa: BLE001 - one of our own models: whoever needs it reports it
            return broken
        broken = domains.problems()
    return broken


def _load_domain(domain: Domain, folder: Path, home: Path) -> dict[str, str]:
    inside = folder.relative_to(home).as_posix()
    broken: dict[str, str] = {}
    for part in ("models", "handlers"):
        if domain.has(part):
            _load(f"{domain.package}.{part}", home, lambda path: path.startswith(f"{inside}/"), broken)
        elif (folder / part).is_dir():
            broken[f"{inside}/{part}"] = "has no __init__.py, so the modules in it are not found"
    return broken


def _load(name: str, home: Path, blamed: Callable[[str], bool], broken: dict[str, str]) -> None:
    """Import a module and all modules below it. ``blamed`` tells which paths below ``home`` can be wrong."""
    try:
        module = importlib.import_module(name)
    except Exception as error:  # noqa: BLE001 - whatever a handler file raises, the file is reported
        place, reason = _place_and_reason(error, name, home, blamed)
        broken.setdefault(place, reason)
        return
    for child in pkgutil.iter_modules(getattr(module, "__path__", ()), f"{name}."):
        _load(child.name, home, blamed, broken)


def _blame_domains(package: str) -> Callable[[str], bool]:
    """Return a function that tells whether a path belongs to a domain or a model."""

    def is_blamed(inside: str) -> bool:
        room = inside.split("/")
        is_domain = room[0] == package and room[1] not in {"runtime", "llm", "transport"}
        return is_domain or (room[0] == "models" and inside not in _DECLARATIONS)

    return is_blamed


def _folders_without_init(folder: Path, without: frozenset[str]) -> dict[str, str]:
    """Return the folders of handlers without ``__init__.py``: Python skips them silently."""
    rooms = (room for room in sorted(folder.iterdir()) if room.is_dir() and room.name not in without)
    packages = (place for room in rooms for place in (room, *room.rglob("*/")) if any(place.glob("*.py")))
    return {
        _relative_path(place, folder.parent): "has no __init__.py, so its handlers are not found"
        for place in packages
        if not (place / "__init__.py").exists()
    }


def _place_and_reason(error: Exception, name: str, home: Path, blamed: Callable[[str], bool]) -> tuple[str, str]:
    """Return the file and line that caused ``error``, and the error in one short line."""
    reason = cut(" ".join(f"{type(error).__name__}: {getattr(error, 'msg', None) or error}".split()), 300)
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_relative_path(Path(error.filename), home)}, line {error.lineno or 1}", reason
    places = list(_places(error, home, blamed))
    return (places[-1] if places else name), reason


def _places(error: Exception, home: Path, blamed: Callable[[str], bool]) -> Iterator[str]:
    """Yield the blamed lines of the traceback of ``error``, the deepest last."""
    for frame in traceback.extract_tb(error.__traceback__):
        path = Path(frame.filename)
        if not path.is_relative_to(home) or frame.lineno is None:
            continue
        inside = path.relative_to(home).as_posix()
        if blamed(inside):
            yield f"{inside}, line {frame.lineno}"


def _relative_path(path: Path, home: Path) -> str:
    return path.relative_to(home).as_posix() if path.is_relative_to(home) else str(path)
