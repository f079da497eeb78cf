"""Find every handler file, and name each one that cannot be loaded with its line and what is wrong there."""

import importlib
import pkgutil
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from workers.runtime.refusals import Failed, cut

_MOST_NAMED = 5
# Declarations that handlers call: what they raise is the fault of the line that called them.
_DECLARATIONS = ("models/base.py", "models/lifecycle.py")


class BrokenHandlers(Failed):
    """Handlers cannot be loaded. The message is one line: each file with its line and the reason."""

    def __init__(self, broken: dict[str, str]) -> None:
        told = [f"{place}: {reason}" for place, reason in broken.items()]
        more = f"; and {len(told) - _MOST_NAMED} more" if len(told) > _MOST_NAMED else ""
        super().__init__(f"handlers cannot be loaded: {'; '.join(told[:_MOST_NAMED])}{more}")


def load_all(package: str, *, without: frozenset[str]) -> dict[str, str]:
    """Import every module below the rooms of ``package`` but those ``without`` handlers.

    Return what is broken: the place (file and line) with the reason, each place once.
    """
    root = importlib.import_module(package)
    broken: dict[str, str] = {}
    for folder in map(Path, root.__path__):
        broken |= _forgotten(folder, without)
    for room in pkgutil.iter_modules(root.__path__, f"{package}."):
        if room.ispkg and room.name.rpartition(".")[2] not in without:
            _load(root, room.name, broken)
    return broken


def _load(root: ModuleType, name: str, broken: dict[str, str]) -> None:
    try:
        module = importlib.import_module(name)
    except Exception as error:  # noqa: BLE001 - whatever a handler file raises, the file is named
        place, reason = _said(error, name, root)
        broken.setdefault(place, reason)
        return
    for child in pkgutil.iter_modules(getattr(module, "__path__", ()), f"{name}."):
        _load(root, child.name, broken)


def _forgotten(folder: Path, without: frozenset[str]) -> dict[str, str]:
    """Return the folders of handlers that Python would pass over in silence: those without ``__init__.py``."""
    rooms = (room for room in sorted(folder.iterdir()) if room.is_dir() and room.name not in without)
    packages = (place for room in rooms for place in (room, *room.rglob("*/")) if any(place.glob("*.py")))
    return {
        _shown(place, folder.parent): "has no __init__.py, so its handlers are not found"
        for place in packages
        if not (place / "__init__.py").exists()
    }


def _said(error: Exception, name: str, root: ModuleType) -> tuple[str, str]:
    """Return the file and line that ``error`` is the fault of, and the error in a few words."""
    home = Path(next(iter(root.__path__))).parent
    reason = cut(" ".join(f"{type(error).__name__}: {getattr(error, 'msg', None) or error}".split()), 300)
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_shown(Path(error.filename), home)}, line {error.lineno or 1}", reason
    places = list(_places(error, home, root))
    return (places[-1] if places else name), reason


def _places(error: Exception, home: Path, root: ModuleType) -> Iterator[str]:
    """Yield the lines of domains and models that ``error`` passed on its way, the deepest last."""
    for frame in traceback.extract_tb(error.__traceback__):
        path = Path(frame.filename)
        if not path.is_relative_to(home) or frame.lineno is None:
            continue
        inside = path.relative_to(home).as_posix()
        room = inside.split("/")
        of_domain = room[0] == root.__name__.rpartition(".")[2] and room[1] not in {"runtime", "llm", "transport"}
        if of_domain or (room[0] == "models" and inside not in _DECLARATIONS):
            yield f"{inside}, line {frame.lineno}"


def _shown(path: Path, home: Path) -> str:
    return path.relative_to(home).as_posix() if path.is_relative_to(home) else str(path)
