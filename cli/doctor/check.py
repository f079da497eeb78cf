"""The result of looking at one thing."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "unknown", "unchecked", "warning", "failed"]
_INSUFFICIENT_PRIVILEGE = "42501"


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


async def permitted(name: str, look: Callable[[], Awaitable[Check | list[Check]]]) -> list[Check]:
    """Return what ``look`` finds. If this login of Postgres may not look, the check says so and does not fail."""
    try:
        found = await look()
    except Exception as error:
        if not is_denied(error):
            raise
        return [not_checked(name)]
    return found if isinstance(found, list) else [found]


def not_checked(name: str) -> Check:
    """Return a check that this login of Postgres may not make."""
    return Check(name, "unchecked", "not checked: needs the operator's login")


def is_denied(error: BaseException) -> bool:
    """Tell whether Postgres refused a statement because this login lacks the right."""
    return getattr(getattr(error, "orig", None) or error, "sqlstate", None) == _INSUFFICIENT_PRIVILEGE
