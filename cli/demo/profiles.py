"""A profile as the demonstration hands it in. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class NewProfile:
    """A name and what is known beside it, ready for ``scoring.profiles``."""

    name: str
    attributes: Mapping[str, Any]
