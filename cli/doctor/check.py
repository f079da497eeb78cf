"""The result of one check."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

CheckState = Literal["ok", "unknown", "unchecked", "warning", "failed"]
_INSUFFICIENT_PRIVILEGE = "42501"


@dataclass(frozen=True, slots=True)
class Check:
    """One check. ``remedy`` says what to do, if anything."""

    name: str
    state: CheckState
    found: str
    remedy: str = ""


def ok_or_failed(name: str, found: str, *, ok: bool, remedy: str) -> Check:
    """Return a check that is ok, or one that failed, with its remedy."""
    return Check(name, "ok", found) if ok else Check(name, "failed", found, remedy)


async def run_permitted(name: str, check: Callable[[], Awaitable[Check | list[Check]]]) -> list[Check]:
    """Run ``check``. If this login of Postgres may not make it, return a check that says so and does not fail."""
    try:
        found = await check()
    except Exception as error:
        if not is_denied(error):
            raise
        return [not_checked(name)]
    return found if isinstance(found, list) else [found]


def not_checked(name: str) -> Check:
    """Return the result of a check that this login of Postgres may not make."""
    return Check(name, "unchecked", "not checked: needs the operator's login")


def is_denied(error: BaseException) -> bool:
    """Return whether Postgres refused a statement because this login does not have the right."""
    return getattr(getattr(error, "orig", None) or error, "sqlstate", None) == _INSUFFICIENT_PRIVILEGE
