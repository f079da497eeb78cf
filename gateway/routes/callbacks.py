"""Callbacks: who is told of ended jobs, and what became of each message."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from gateway.bodies import Route
from gateway.callers.caller import Caller
from gateway.callers.dependencies import require
from gateway.callers.sessions import actor_of, connection_of
from gateway.headers import OptionalVersion, RequiredVersion, etag
from gateway.resources import services_of
from gateway.views import DEFAULT_LIMIT, Cursor, Limit, Page, View
from workers.notifications import deliveries, endpoints
from workers.notifications.rules import CallbackRules

router = APIRouter(prefix="/v1/callbacks", tags=["callbacks"], route_class=Route)

Reader = Annotated[Caller, Depends(require("callbacks:read"))]
Writer = Annotated[Caller, Depends(require("callbacks"))]
Status = Literal["pending", "sending", "delivered", "failed", "cancelled"]
Url = Annotated[
    str,
    Field(
        min_length=1,
        max_length=2_048,
        description="https, or http; no address inside the network",
        examples=["https://service.example/gristmill"],
    ),
]
Stages = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=100)]] | None,
    Field(min_length=1, max_length=endpoints.MAX_STAGES, description="null: every stage", examples=[["scoring.score"]]),
]


class Endpoint(View):
    """An address that is told of the ended jobs of its owner."""

    id: UUID
    owner_id: UUID | None = Field(description="null: the operators")
    every_owner: bool = Field(description="whether it is told of the jobs of all owners; for operators only")
    url: str
    stages: Sequence[str] | None = Field(description="null: every stage")
    version: int
    disabled_at: datetime | None = Field(description="set: nothing is sent until it is enabled again")
    disabled_reason: str | None
    consecutive_failures: int
    first_failure_at: datetime | None = Field(description="since when no attempt succeeded")
    previous_until: datetime | None = Field(description="until then the secret before the present one signs too")
    created_at: datetime
    created_by: str


class NewEndpoint(BaseModel):
    """An endpoint to make."""

    model_config = ConfigDict(extra="forbid")

    url: Url
    stages: Stages = None
    every_owner: bool = Field(default=False, description="tell of the jobs of all owners; for operators only")


class EndpointChange(BaseModel):
    """What to change of an endpoint; a field that is left out stays."""

    model_config = ConfigDict(extra="forbid")

    # Whether a field was given counts, so it has no default that a reader could take for its value.
    url: Url = Field(default_factory=str)
    stages: Stages = Field(default_factory=lambda: None)
    enabled: bool = Field(default_factory=bool, description="false: send nothing until it is true again")


class Rotation(BaseModel):
    """How to replace a secret."""

    model_config = ConfigDict(extra="forbid")

    overlap_seconds: int = Field(
        default=int(endpoints.OVERLAP.total_seconds()),
        ge=0,
        le=int(endpoints.MAX_OVERLAP.total_seconds()),
        description="how long both secrets sign; 0 if the old one is known to others",
    )


class Secret(View):
    """A new secret, which is shown only here."""

    secret: str = Field(examples=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])
    previous_until: datetime | None = Field(None, description="until then the secret before signs too")


class EndpointWithSecret(Secret):
    """A new endpoint or a new secret of one; the secret is shown only here."""

    endpoint: Endpoint


class Attempt(View):
    """One attempt of a delivery."""

    at: datetime | None
    milliseconds: int
    status: int | None = Field(description="null: no answer came, `error` says why")
    address: str | None = Field(description="the IP address that was called")
    error: str | None
    answer: str | None = Field(description="the start of the answer's body")


class Delivery(View):
    """One message to one address, with its attempts."""

    id: UUID
    message_id: str = Field(description="its `webhook-id`, the same at every attempt", examples=["msg_0198c0de"])
    event: str = Field(examples=["job.completed"])
    status: Status
    version: int
    endpoint_id: UUID | None = Field(description="null: it went to the `callback_url` of the job")
    owner_id: UUID | None
    destination: str | None = Field(description="the URL without its query; null: the endpoint was deleted")
    job_id: UUID | None
    job_stage: str | None
    job_status: str | None
    job_version: int | None
    ended_at: datetime
    attempts: Sequence[Attempt]
    next_attempt_at: datetime | None
    error: str | None
    created_at: datetime
    completed_at: datetime | None


class Sent(BaseModel):
    """A test message that was enqueued."""

    delivery_id: UUID


@router.get("/endpoints", operation_id="list_callback_endpoints", summary="List endpoints")
async def list_endpoints(
    request: Request, caller: Reader, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Page[Endpoint]:
    """In the order of their making."""
    async with connection_of(request, caller) as conn:
        found, rest = await endpoints.list_endpoints(conn, limit=limit, cursor=cursor)
    return Page(items=[Endpoint.model_validate(one) for one in found], next=rest)


@router.post("/endpoints", status_code=201, operation_id="create_callback_endpoint", summary="Make an endpoint")
async def create_endpoint(request: Request, caller: Writer, new: NewEndpoint, response: Response) -> EndpointWithSecret:
    """Keep the secret: it is not shown again. The endpoint is told of the jobs that end from now on."""
    async with connection_of(request, caller) as conn:
        made = await endpoints.create_endpoint(
            conn, actor_of(request, caller), rules=_rules(request), **new.model_dump()
        )
    return _with_secret(made, response)


@router.get("/endpoints/{endpoint_id}", operation_id="get_callback_endpoint", summary="Show an endpoint")
async def get_endpoint(request: Request, caller: Reader, endpoint_id: UUID, response: Response) -> Endpoint:
    """Its secret is never shown again."""
    async with connection_of(request, caller) as conn:
        found = await endpoints.find_endpoint(conn, endpoint_id)
    response.headers["ETag"] = etag(found.version)
    return Endpoint.model_validate(found)


@router.patch("/endpoints/{endpoint_id}", operation_id="change_callback_endpoint", summary="Change an endpoint")
async def change_endpoint(  # noqa: PLR0917 - FastAPI passes them by name
    request: Request,
    caller: Writer,
    endpoint_id: UUID,
    change: EndpointChange,
    version: RequiredVersion,
    response: Response,
) -> Endpoint:
    """Give `enabled` true to go on with an endpoint that was disabled: it starts without failures."""
    async with connection_of(request, caller) as conn:
        found = await endpoints.change_endpoint(
            conn,
            actor_of(request, caller),
            endpoint_id,
            change.model_dump(exclude_unset=True),
            rules=_rules(request),
            version=version,
        )
    response.headers["ETag"] = etag(found.version)
    return Endpoint.model_validate(found)


@router.delete(
    "/endpoints/{endpoint_id}", status_code=204, operation_id="delete_callback_endpoint", summary="Delete an endpoint"
)
async def delete_endpoint(request: Request, caller: Writer, endpoint_id: UUID, version: OptionalVersion) -> None:
    """Its messages that wait are cancelled."""
    async with connection_of(request, caller) as conn:
        await endpoints.delete_endpoint(conn, actor_of(request, caller), endpoint_id, version=version)


@router.post(
    "/endpoints/{endpoint_id}/rotate-secret",
    operation_id="rotate_callback_secret",
    summary="Replace the secret of an endpoint",
)
async def rotate_secret(  # noqa: PLR0917 - FastAPI passes them by name
    request: Request,
    caller: Writer,
    endpoint_id: UUID,
    version: OptionalVersion,
    response: Response,
    rotation: Rotation | None = None,
) -> EndpointWithSecret:
    """For a day, or as long as you say, messages are signed with both secrets, so that no message is refused."""
    async with connection_of(request, caller) as conn:
        made = await endpoints.rotate_secret(
            conn,
            actor_of(request, caller),
            endpoint_id,
            rules=_rules(request),
            overlap=_overlap(rotation),
            version=version,
        )
    return _with_secret(made, response)


@router.post(
    "/endpoints/{endpoint_id}/test",
    status_code=202,
    operation_id="test_callback_endpoint",
    summary="Send a test message",
)
async def send_test(request: Request, caller: Writer, endpoint_id: UUID) -> Sent:
    """One attempt, of type `endpoint.ping`, also to a disabled endpoint. The delivery says what became of it."""
    async with connection_of(request, caller) as conn:
        delivery_id = await endpoints.ping_endpoint(conn, actor_of(request, caller), endpoint_id)
    return Sent(delivery_id=delivery_id)


@router.post("/secret", operation_id="replace_callback_secret", summary="Make or replace the secret of callback_url")
async def replace_secret(request: Request, caller: Writer, rotation: Rotation | None = None) -> Secret:
    """Make it before you enqueue the first job with a `callback_url`: it signs what goes there."""
    async with connection_of(request, caller) as conn:
        made = await endpoints.replace_one_off_secret(
            conn, actor_of(request, caller), rules=_rules(request), overlap=_overlap(rotation)
        )
    return Secret(secret=made.secret, previous_until=made.previous_until)


@router.get("", operation_id="list_callbacks", summary="List deliveries")
async def list_deliveries(  # noqa: PLR0917 - FastAPI passes them by name
    request: Request,
    caller: Reader,
    endpoint_id: UUID | None = None,
    job_id: UUID | None = None,
    status: Annotated[Status | None, Query()] = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[Delivery]:
    """Newest first. Deliveries are kept for 30 days after their end."""
    async with connection_of(request, caller) as conn:
        found, rest = await deliveries.list_deliveries(
            conn, endpoint_id=endpoint_id, job_id=job_id, status=status, limit=limit, cursor=cursor
        )
    return Page(items=[Delivery.model_validate(one) for one in found], next=rest)


@router.get("/{delivery_id}", operation_id="get_callback", summary="Show a delivery")
async def get_delivery(request: Request, caller: Reader, delivery_id: UUID, response: Response) -> Delivery:
    """With its newest 30 attempts."""
    async with connection_of(request, caller) as conn:
        found = await deliveries.find_delivery(conn, delivery_id)
    response.headers["ETag"] = etag(found.version)
    return Delivery.model_validate(found)


@router.post("/{delivery_id}/resend", operation_id="resend_callback", summary="Send a delivery again")
async def resend_delivery(
    request: Request, caller: Writer, delivery_id: UUID, version: OptionalVersion, response: Response
) -> Delivery:
    """Only one that has ended. The `webhook-id` stays the same, so a receiver that had it can leave it out."""
    async with connection_of(request, caller) as conn:
        found = await deliveries.resend_delivery(conn, actor_of(request, caller), delivery_id, version=version)
    response.headers["ETag"] = etag(found.version)
    return Delivery.model_validate(found)


def _rules(request: Request) -> CallbackRules:
    return services_of(request).resources.callbacks


def _overlap(rotation: Rotation | None) -> timedelta:
    return timedelta(seconds=(rotation or Rotation()).overlap_seconds)


def _with_secret(made: endpoints.NewSecret, response: Response) -> EndpointWithSecret:
    assert made.endpoint is not None
    response.headers["ETag"] = etag(made.endpoint.version)
    return EndpointWithSecret(
        endpoint=Endpoint.model_validate(made.endpoint), secret=made.secret, previous_until=made.previous_until
    )
