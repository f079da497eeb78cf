"""The result of looking at one thing."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "unknown", "warning", "failed"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at. ``mend`` says what to do about it, if anything."""

    name: str
    state: State
    found: str
    mend: str = ""


def verdict(name: str, found: str, *, well: bool, mend: str) -> Check:
    """Return a check that is well, or failed and says how to mend it."""
    return Check(name, "ok", found) if well else Check(name, "failed", found, mend)
