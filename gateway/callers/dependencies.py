"""What a route declares to get its caller.

``CallerOf`` is any authenticated caller; ``Depends(require("jobs:read"))`` one with that scope.
"""

from collections.abc import Set as AbstractSet
from typing import Annotated, Any

from fastapi import Depends, Request

from gateway.callers.caller import Caller
from gateway.limits import Place
from gateway.problems import MissingScope
from gateway.resources import services_of

ADMIN = "admin"


class Requirement:
    """The dependency that returns the caller, or refuses a caller without ``scope``; None: any caller."""

    def __init__(self, scope: str | None = None) -> None:
        self.scope = scope

    async def __call__(self, request: Request) -> Caller:
        caller: Caller | None = request.scope["state"].get("caller")
        if caller is None:
            caller = await _admit(request, request.scope["state"])
        if self.scope is not None and not is_allowed(caller.scopes, self.scope):
            raise MissingScope(self.scope)
        return caller


async def _admit(request: Request, state: dict[str, Any]) -> Caller:
    """Find the caller, hold its key to its limits, and give the request a place among those that run."""
    services = services_of(request)
    caller = await services.authenticator.authenticate(request.headers.get("authorization"))
    state["caller"] = caller
    key = str(caller.key_id or caller.name)
    state["headers"] = await services.rates.admit(key)
    place = state["place"] = Place(services.capacity, key)
    await place.enter()
    state["release"] = place.leave
    return caller


def require(scope: str) -> Requirement:
    """Return the dependency that gives the caller, or a 403 that names ``scope``."""
    return Requirement(scope)


def is_allowed(scopes: AbstractSet[str], needed: str) -> bool:
    """Tell whether a caller with ``scopes`` may do what needs the scope ``needed``.

    ``scoring`` includes ``scoring:read``; ``admin`` includes everything.
    """
    return needed in scopes or ADMIN in scopes or needed.removesuffix(":read") in scopes


CallerOf = Annotated[Caller, Depends(Requirement())]
