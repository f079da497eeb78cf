"""Tables and lifecycles, one module per domain. ``load_all`` makes the metadata complete; nothing here imports ours.

The models of domains that other packages bring stand in those packages (``domains.py``).
"""

import importlib
import pkgutil
from typing import TypeVar

from sqlalchemy import MetaData

from models.base import Base
from models.domains import installed

M = TypeVar("M")


def load_all() -> MetaData:
    """Import every model module, those of installed domains too, and return the metadata of all of them."""
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


def concrete(base: type[M]) -> list[type[M]]:
    """Return every mapped class below ``base`` that is imported by now; :func:`every_table` imports all of ours."""
    found: list[type[M]] = []
    for child in base.__subclasses__():
        found += [child] if "__table__" in child.__dict__ else []
        found += concrete(child)
    return found


def every_table(base: type[M]) -> list[type[M]]:
    """Return every mapped class below ``base`` that has a module here, and what else is imported by now.

    No handler is imported. A model that stands beside its handler is known once the handlers are discovered.
    """
    load_all()
    return concrete(base)
