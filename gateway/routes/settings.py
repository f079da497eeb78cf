"""System settings: the provider and the models while the system runs. A secret is never shown."""

from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field

from gateway.bodies import Route
from gateway.callers.caller import Caller
from gateway.callers.dependencies import require
from gateway.callers.sessions import actor_of, session_of
from gateway.cursors import Listing
from gateway.parameters import Body, Paging, PathName, Secret
from gateway.problems import HttpProblem
from gateway.resources import services_of
from gateway.views import Page, View
from workers.operations import system_settings
from workers.operations.system_settings import KNOWN_SETTINGS, SettingView
from workers.runtime.refusals import Problem

router = APIRouter(prefix="/v1/settings", tags=["operations of the system"], route_class=Route)
Admin = Annotated[Caller, Depends(require("admin"))]


class NewSettings(Body):
    """The values to set together, by key."""

    values: dict[str, Secret] = Field(
        min_length=1,
        max_length=50,
        description=f"of {', '.join(KNOWN_SETTINGS)}",
        examples=[{"ai_provider": "offline"}],
    )


class Unset(View):
    """The settings that were removed: also those that belonged to another provider."""

    removed: list[str]


@router.get("", operation_id="list_settings", summary="List the settings")
async def list_(request: Request, caller: Admin, paging: Annotated[Paging, Query()]) -> Page[SettingView]:
    """The value of a secret only says that it is set."""
    listing = Listing(request, caller, paging)
    async with session_of(request, caller) as session:
        found = await system_settings.list_settings(session)
    return listing.cut(found, lambda one: one.key)


@router.put("", operation_id="put_settings", summary="Set values, all or none")
async def put(request: Request, caller: Admin, body: NewSettings) -> Unset:
    """Running workers use them within seconds. Secrets are encrypted with GRISTMILL_SECRET_KEYS."""
    values = _texts(body.values)
    keyring = services_of(request).resources.keyring
    async with session_of(request, caller) as session:
        removed = await system_settings.put(session, values, keyring=keyring, actor=actor_of(request, caller))
    return Unset(removed=removed)


@router.delete(
    "/{key}", operation_id="delete_setting", summary="Remove a setting: the environment's value is used again"
)
async def delete(request: Request, caller: Admin, key: PathName) -> Unset:
    async with session_of(request, caller) as session:
        return Unset(removed=await system_settings.remove(session, key, actor=actor_of(request, caller)))


def _texts(values: Mapping[str, object]) -> dict[str, str]:
    """Return ``values``; refuse what is no text, without showing it."""
    found: dict[str, str] = {}
    for key, value in values.items():
        if not isinstance(value, str) or not value.isprintable():
            problem = Problem(f"values.{key}"[:100], "must be a text of one line")
            raise HttpProblem("invalid", str(problem), errors=[problem])
        found[key] = value
    return found
