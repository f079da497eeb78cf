"""Messages that the Celery door refused: list, show, replay."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field, field_validator

from gateway.bodies import Route
from gateway.callers.caller import Caller
from gateway.callers.dependencies import require
from gateway.callers.sessions import actor_of, session_of
from gateway.cursors import Listing
from gateway.parameters import Body, Flag, Id, Paging
from gateway.views import Page, View
from workers.runtime.operate.dead_letters import list_dead, replay_dead, show_dead

router = APIRouter(prefix="/v1/dead", tags=["operations of the system"], route_class=Route)
Reader = Annotated[Caller, Depends(require("operate:read"))]
Operator = Annotated[Caller, Depends(require("operate"))]
MAX_REPLAYED, MAX_SHOWN_CHARACTERS = 1_000, 65_536


class DeadFilter(Paging):
    """Which messages are listed."""

    replayed: Flag = Field(False, description="also those that were replayed")


class DeadMessage(View):
    """A refused message. Messages with the same content are one, the newest."""

    id: UUID
    reason: str
    task: str | None
    message_id: str | None
    queue: str | None
    content_type: str | None
    size: int = Field(description="bytes of its body")
    count: int = Field(description="how often it was received")
    messages: int
    received_at: datetime
    last_received_at: datetime
    replayed_at: datetime | None
    job_id: UUID | None = Field(description="its job, if it was replayed")


class DeadMessageDetails(DeadMessage):
    """A refused message with its content, which may be cut."""

    arguments: str | None
    keywords: str | None
    body: str | None = Field(description="its beginning, as text")

    @field_validator("body", mode="before")
    @classmethod
    def _as_text(cls, body: bytes | None) -> str | None:
        return None if body is None else bytes(body).decode("utf-8", "backslashreplace")[:MAX_SHOWN_CHARACTERS]


class Replay(Body):
    """The messages to replay."""

    message_ids: list[Id] = Field(min_length=1, max_length=MAX_REPLAYED)


class Replayed(View):
    """What became of a message."""

    id: UUID
    outcome: Literal["enqueued", "known", "refused", "kept"]
    job_id: UUID | None
    reason: str | None


class ReplayReport(View):
    """What became of each message, and of those with the same content."""

    items: list[Replayed]


@router.get(
    "", operation_id="list_dead_messages", summary="List the messages that the Celery door refused, newest first"
)
async def list_(request: Request, caller: Reader, wanted: Annotated[DeadFilter, Query()]) -> Page[DeadMessage]:
    listing = Listing(request, caller, wanted)
    async with session_of(request, caller) as session:
        found = await list_dead(
            session, with_replayed=wanted.replayed, limit=listing.wanted, after=listing.after_time()
        )
    return listing.page([DeadMessage.model_validate(one) for one in found], lambda one: (one.last_received_at, one.id))


@router.post("/replay", operation_id="replay_dead_messages", summary="Send refused messages to the door again")
async def replay(request: Request, caller: Operator, body: Replay) -> ReplayReport:
    """Each by itself. A message that came several times is enqueued once."""
    async with session_of(request, caller) as session:
        done = await replay_dead(session, [str(one) for one in body.message_ids], actor_of(request, caller))
    return ReplayReport(items=[Replayed.model_validate(one) for one in done])


@router.get("/{message_id:uuid}", operation_id="get_dead_message", summary="Show a refused message with its content")
async def get(request: Request, caller: Reader, message_id: UUID) -> DeadMessageDetails:
    async with session_of(request, caller) as session:
        return DeadMessageDetails.model_validate(await show_dead(session, str(message_id)))
