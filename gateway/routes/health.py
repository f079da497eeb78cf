"""Probes and metrics: ``/healthz``, ``/readyz``, ``/metrics``. They take no place among the running requests."""

import hmac
from typing import Literal

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

from gateway.callers.authentication import authorization_of
from gateway.callers.dependencies import is_allowed
from gateway.problems import HttpProblem, MissingScope
from gateway.resources import services_of
from workers.runtime.refusals import Problem

router = APIRouter(tags=["health"])
METRICS_SCOPE = "operate:read"


class Alive(BaseModel):
    """The process answers."""

    status: Literal["alive"] = "alive"


class Ready(BaseModel):
    """Every check is green."""

    status: Literal["ready"] = "ready"
    checks: list[str]


@router.get("/healthz", operation_id="is_alive", summary="Tell whether this process answers")
async def healthz() -> Alive:
    return Alive()


@router.get("/readyz", operation_id="is_ready", summary="Tell whether this process can serve")
async def readyz(request: Request) -> Ready:
    """Check that Postgres and Redis answer, the schema fits this release, and a dispatcher leads.

    A 503 names each check that is red, and its remedy.
    """
    checks = await services_of(request).health.check()
    red = [Problem(check.name, check.problem, None, check.remedy) for check in checks if check.problem]
    if red:
        raise HttpProblem("unavailable", "; ".join(map(str, red)), errors=red, headers={"Retry-After": "2"})
    return Ready(checks=[check.name for check in checks])


@router.get(
    "/metrics",
    operation_id="read_metrics",
    summary="Metrics of this process and of the whole system, in the format of Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(request: Request) -> Response:
    """Open it with the token of GRISTMILL_GATEWAY__METRICS_TOKEN, or with a key that has the scope `operate:read`.

    The token needs no database: an outage must not hide the metrics.
    """
    services = services_of(request)
    header = authorization_of(request)
    token = services.resources.metrics_token
    if not (token and header and hmac.compare_digest(header.encode(), f"Bearer {token}".encode())):
        caller = await services.authenticator.authenticate(header)
        if not is_allowed(caller.scopes, METRICS_SCOPE):
            raise MissingScope(METRICS_SCOPE)
    await request.app.state.system.refresh(services.database)
    return Response(generate_latest(request.app.state.metrics.registry), media_type=CONTENT_TYPE_LATEST)
