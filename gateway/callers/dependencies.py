"""What a route declares to get its caller.

``CallerOf`` is any authenticated caller; ``Depends(require("jobs:read"))`` one with that scope.
"""

from typing import Annotated

from fastapi import Depends, Request

from gateway.callers.caller import Caller
from gateway.problems import MissingScope, Unauthenticated
from gateway.resources import services_of
from workers.runtime.api_keys import allows


class Requirement:
    """The dependency that returns the caller, or refuses a caller without ``scope``; None: any caller."""

    def __init__(self, scope: str | None = None) -> None:
        self.scope = scope

    async def __call__(self, request: Request) -> Caller:
        caller: Caller | None = request.scope["state"].get("caller")
        if caller is None:
            sent = request.headers.getlist("authorization")
            if len(sent) > 1:  # a proxy and this process must not read different ones
                raise Unauthenticated("Authorization must be sent once")
            caller = await services_of(request).authenticator.authenticate(sent[0] if sent else None)
            request.scope["state"]["caller"] = caller
        if self.scope is not None and not allows(caller.scopes, self.scope):
            raise MissingScope(self.scope)
        return caller


def require(scope: str) -> Requirement:
    """Return the dependency that gives the caller, or a 403 that names ``scope``."""
    return Requirement(scope)


CallerOf = Annotated[Caller, Depends(Requirement())]
