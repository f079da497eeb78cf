"""Tables and lifecycles, one module per domain. ``load_all`` makes the metadata complete; nothing here imports ours."""

import importlib
import pkgutil

from sqlalchemy import MetaData

from models.base import Base


def load_all() -> MetaData:
    """Import every model module and return the metadata of all of them."""
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        importlib.import_module(module.name)
    return Base.metadata
