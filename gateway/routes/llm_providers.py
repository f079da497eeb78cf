"""Providers of language models: list, add, change, pause, resume, remove. A key comes in and never goes out."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import Field

from gateway.bodies import Route
from gateway.callers.caller import Caller
from gateway.callers.dependencies import require
from gateway.callers.sessions import actor_of, session_of
from gateway.cursors import Listing
from gateway.headers import RequiredVersion, etag
from gateway.parameters import Body, Name, Paging, PathName, Secret, Text, Why, reason_of
from gateway.problems import HttpProblem
from gateway.resources import services_of
from gateway.views import Page, View
from workers.llm.operate import providers
from workers.llm.operate.providers import ProviderView
from workers.llm.operate.refusals import Unknown
from workers.llm.routing.resuming import Resumed
from workers.runtime.database import Transaction
from workers.runtime.refusals import Problem

router = APIRouter(prefix="/v1/llm", tags=["language models"], route_class=Route)
Reader = Annotated[Caller, Depends(require("operate:read"))]
Operator = Annotated[Caller, Depends(require("operate"))]
Kind = Literal["openai", "openrouter", "compatible", "offline"]
_Url = Annotated[Text, Field(min_length=1, max_length=2_000, examples=["http://localhost:8080/v1"])]


class NewProvider(Body):
    """A provider to add. A compatible one needs `base_url`, a hosted one needs `api_key`."""

    name: Name = Field(max_length=40)
    kind: Kind
    base_url: _Url | None = None
    api_key: Secret = Field(None, description="encrypted with GRISTMILL_SECRET_KEYS; never shown")


class ProviderChange(Body):
    """The values to change. With another address the key is needed again."""

    kind: Kind | None = None
    base_url: _Url | None = None
    api_key: Secret = None


class ResumedProvider(View):
    """A provider that is asked again: why it was not, and how many of its jobs go on at once."""

    provider: str
    reasons: Sequence[str]
    woken: int


class ResumedProviders(View):
    """The providers of which something ended."""

    items: list[ResumedProvider]


@router.get("/providers", operation_id="list_providers", summary="List providers, and whether they are asked now")
async def list_(request: Request, caller: Reader, paging: Annotated[Paging, Query()]) -> Page[ProviderView]:
    listing = Listing(request, caller, paging)
    async with session_of(request, caller) as session:
        routing = await services_of(request).resources.read_routing(session)
        found = await providers.list_providers(session, routing)
    return listing.cut(found, lambda one: one.name)


@router.post("/providers", operation_id="add_provider", summary="Add a provider", status_code=201)
async def add(request: Request, caller: Operator, body: NewProvider) -> ProviderView:
    """Running processes follow within seconds. Routes are added apart."""
    keyring = services_of(request).resources.keyring
    actor = actor_of(request, caller)
    async with session_of(request, caller) as session:
        name = await providers.add_provider(session, _given(body), keyring=keyring, actor=actor)
        return await _view(request, session, name)


@router.patch("/providers/{name}", operation_id="change_provider", summary="Change the given values of a provider")
async def change(
    request: Request,
    response: Response,
    *,
    caller: Operator,
    name: PathName,
    body: ProviderChange,
    version: RequiredVersion,
) -> ProviderView:
    keyring = services_of(request).resources.keyring
    actor = actor_of(request, caller)
    async with session_of(request, caller) as session:
        given = _given(body)
        await providers.change_provider(session, name, given, keyring=keyring, version=version, actor=actor)
        found = await _view(request, session, name)
    response.headers["ETag"] = etag(found.version or 0)
    return found


@router.delete("/providers/{name}", operation_id="delete_provider", summary="Delete a provider", status_code=204)
async def delete(request: Request, caller: Operator, name: PathName) -> None:
    """409 if a route has a step there. Its calls stay in the ledger."""
    async with session_of(request, caller) as session:
        await providers.remove_provider(session, name, actor=actor_of(request, caller))


@router.post("/providers/{name}/pause", operation_id="pause_provider", summary="Ask a provider nothing more")
async def pause(request: Request, caller: Operator, name: PathName, body: Why | None = None) -> ProviderView:
    """Until it is resumed. Its jobs wait and spend no attempt."""
    reason = reason_of(body) or f"paused by {caller.name}"
    actor = actor_of(request, caller, reason=reason)
    async with session_of(request, caller) as session:
        await providers.pause_provider(session, name, reason, actor=actor)
        return await _view(request, session, name)


@router.post("/providers/{name}/resume", operation_id="resume_provider", summary="Ask a provider again")
async def resume(request: Request, caller: Operator, name: PathName) -> ResumedProviders:
    """Ends its pause, its cooldowns and its outages; its jobs go on at once."""
    return await _resume(request, caller, name)


@router.post("/resume", operation_id="resume_providers", summary="Ask all providers again")
async def resume_all(request: Request, caller: Operator) -> ResumedProviders:
    return await _resume(request, caller, None)


async def _resume(request: Request, caller: Caller, name: str | None) -> ResumedProviders:
    services = services_of(request)
    async with session_of(request, caller) as session:
        routing = await services.resources.read_routing(session)
        ended = await providers.resume_providers(session, routing, name, actor=actor_of(request, caller))
    done: list[Resumed] = await providers.wake_resumed(services.operators, ended)
    return ResumedProviders(items=[ResumedProvider.model_validate(one) for one in done])


async def _view(request: Request, session: Transaction, name: str) -> ProviderView:
    routing = await services_of(request).resources.read_routing(session)
    for one in await providers.list_providers(session, routing):
        if one.name == name:
            return one
    raise Unknown(f"provider {name} was removed meanwhile")


def _given(body: NewProvider | ProviderChange) -> dict[str, Any]:
    """Return the values that were given; refuse a key that is no text, without showing it."""
    given = {name: value for name, value in body.model_dump().items() if value is not None}
    if "api_key" in given and not isinstance(given["api_key"], str):
        problem = Problem("api_key", "must be a text")
        raise HttpProblem("invalid", str(problem), errors=[problem])
    return given
