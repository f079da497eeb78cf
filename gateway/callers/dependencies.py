"""What a route declares to get its caller.

``CallerOf`` is any authenticated caller; ``Depends(require("jobs:read"))`` one with that scope.
"""

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Annotated

from fastapi import Depends, Request
from fastapi.dependencies.models import Dependant

from gateway.callers.authentication import authorization_of
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
        """Return the caller, and give the request a place among those that run."""
        caller = await self.find_caller(request)
        state = request.scope["state"]
        if "place" not in state:
            place = state["place"] = Place(services_of(request).capacity, caller.counted_as)
            await place.enter()
        return caller

    async def find_caller(self, request: Request) -> Caller:
        """Return the caller; hold its key to its limits, once for each request."""
        caller: Caller | None = request.scope["state"].get("caller")
        if caller is None:
            caller = await _admit(request)
        if self.scope is not None and not is_allowed(caller.scopes, self.scope):
            raise MissingScope(self.scope)
        return caller


async def _admit(request: Request) -> Caller:
    services, state = services_of(request), request.scope["state"]
    caller = await services.authenticator.authenticate(authorization_of(request))
    state["caller"] = caller
    services.open_requests.enter(caller.counted_as)
    state["release"] = partial(services.open_requests.leave, caller.counted_as)
    state["headers"] = await services.rates.admit(caller.counted_as)
    return caller


def requirements_of(dependant: Dependant) -> Iterator[Requirement]:
    """Yield what a route requires of its caller."""
    for one in dependant.dependencies:
        if isinstance(one.call, Requirement):
            yield one.call
        yield from requirements_of(one)


def require(scope: str) -> Requirement:
    """Return the dependency that gives the caller, or a 403 that names ``scope``."""
    return Requirement(scope)


def is_allowed(scopes: AbstractSet[str], needed: str) -> bool:
    """Tell whether a caller with ``scopes`` may do what needs the scope ``needed``.

    ``scoring`` includes ``scoring:read``; ``admin`` includes everything.
    """
    return needed in scopes or ADMIN in scopes or needed.removesuffix(":read") in scopes


CallerOf = Annotated[Caller, Depends(Requirement())]
