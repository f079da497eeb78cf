"""Calls of language models: who may make them, what they cost, what is kept of them. One schema, ``llm``.

Every module below is part of it: one that is added is found by itself.
"""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    importlib.import_module(_module.name)
