"""What both halves of the package (HTTP and SQL) take and return."""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict


class Outcome(StrEnum):
    """How a job ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class NewJob(BaseModel):
    """A job to enqueue. Gristmill checks the values; this class checks only their types.

    ``on_failed="rerun"`` makes a new job if the first job of the key failed or was cancelled. ``lane="batch"`` lets
    language models answer for half the price ``within`` a time span.
    """

    model_config = ConfigDict(extra="forbid")

    payload: dict[str, Any]
    idempotency_key: str | None = None
    priority: int | None = None
    due_at: datetime | None = None
    callback_url: str | None = None
    traceparent: str | None = None
    on_failed: Literal["return", "rerun"] | None = None
    lane: Literal["normal", "batch"] | None = None
    within: timedelta | None = None


class Enqueued(BaseModel):
    """The job of a request: a new one, or the first job with its idempotency key."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    created: bool


class Job(BaseModel):
    """A job as it is now. ``outcome`` is None until it has ended; ``error`` says why it failed."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: UUID
    stage: str
    status: str
    outcome: Outcome | None = None
    version: int
    progress: int = 0
    retry_count: int = 0
    error: str | None = None
    wait_reason: str | None = None
    created_at: datetime
    completed_at: datetime | None = None

    @property
    def has_ended(self) -> bool:
        return self.outcome is not None
