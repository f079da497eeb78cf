"""Tables and lifecycles, one module per domain. ``load_all`` completes the metadata. Imports nothing else of gristmill.

Other packages can bring domains; their models are in those packages (``domains.py``).
"""

import importlib
import pkgutil
from typing import TypeVar

from sqlalchemy import MetaData

from models.base import Base
from models.domains import installed

M = TypeVar("M")


def load_all() -> MetaData:
    """Import every model module, also of installed domains, and return the metadata of all models."""
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        importlib.import_module(module.name)
    for domain in installed():
        if domain.has("models"):
            import_below(f"{domain.package}.models")
    return Base.metadata


def import_below(name: str) -> None:
    """Import a module and, if it is a package, every module below it."""
    module = importlib.import_module(name)
    for child in pkgutil.iter_modules(getattr(module, "__path__", ()), f"{name}."):
        import_below(child.name)


def list_mapped(base: type[M]) -> list[type[M]]:
    """Return every mapped class below ``base`` that is already imported."""
    found: list[type[M]] = []
    for child in base.__subclasses__():
        found += [child] if "__table__" in child.__dict__ else []
        found += list_mapped(child)
    return found


def every_table(base: type[M]) -> list[type[M]]:
    """Import every model module, then return every mapped class below ``base``.

    Handlers are not imported. A model that is defined beside its handler is found only after handlers were discovered.
    """
    load_all()
    return list_mapped(base)
