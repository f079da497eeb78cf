"""Jobs and their history as JSON, for all routes that show them."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import Field
from pydantic_core import to_json

from gateway.views import View
from workers.runtime.operate.jobs import JobView, TransitionView, outcome_of, table_of
from workers.runtime.store.feed import FeedPosition

Outcome = Literal["completed", "failed", "cancelled"]


class Job(View):
    """A job as it is now."""

    id: UUID
    stage: str = Field(examples=["scoring.score"])
    status: str = Field(description="the state, as people read it", examples=["pending"])
    outcome: Outcome | None = Field(None, description="how the job ended; null until then")
    version: int = Field(description="also the `ETag`; every transition adds one")
    priority: int = Field(description="1 is first, 10 is last")
    progress: int = Field(description="percent")
    retry_count: int
    max_retries: int
    due_at: datetime | None = Field(None, description="it does not start before")
    idempotency_key: str | None = None
    wait_reason: str | None = Field(None, description="what a job that has not started waits for")
    error: str | None = Field(None, description="the last error")
    created_at: datetime
    started_at: datetime | None = None
    completed_at: datetime | None = None
    updated_at: datetime


def job_of(view: JobView) -> Job:
    """Return a view of the kernel as JSON."""
    return Job(
        id=view.id,
        stage=view.stage,
        status=view.shown_as,
        outcome=outcome_of(view.table_name, view.status),
        version=view.version,
        priority=view.priority,
        progress=view.progress,
        retry_count=view.retry_count,
        max_retries=view.max_retries,
        due_at=view.due_at,
        idempotency_key=view.idempotency_key,
        wait_reason=view.wait_reason,
        error=view.error_message,
        created_at=view.created_at,
        started_at=view.started_at,
        completed_at=view.completed_at,
        updated_at=view.updated_at,
    )


class Transition(View):
    """One change of a job's state."""

    job_id: UUID
    stage: str
    version: int = Field(validation_alias="version_to", description="the version that it led to")
    old_state: str | None = Field(None, description="null: the job was enqueued")
    new_state: str
    outcome: Outcome | None = Field(None, description="how the job ended by this transition; null if it did not")
    action: str | None = Field(None, validation_alias="change_action")
    reason: str | None = Field(None, validation_alias="change_reason")
    changed_by: str | None = None
    created_at: datetime
    context: dict[str, Any] | None = None
    ip_address: str | None = None
    user_agent: str | None = None


def transition_of(view: TransitionView) -> Transition:
    """Return a transition as JSON."""
    return Transition.model_validate(
        {
            **{name: getattr(view, name) for name in TransitionView.__dataclass_fields__},
            "outcome": _outcome_of(view),
            "ip_address": None if view.ip_address is None else str(view.ip_address),
        }
    )


def event_of(view: TransitionView) -> bytes:
    """Return a transition as the data of an event: without what an auditor reads."""
    return to_json(
        {
            "job_id": view.job_id,
            "stage": view.stage,
            "version": view.version_to,
            "old_state": view.old_state,
            "new_state": view.new_state,
            "outcome": _outcome_of(view),
            "action": view.change_action,
            "reason": view.change_reason,
            "changed_by": view.changed_by,
            "created_at": view.created_at,
        },
        serialize_unknown=True,
    )


def encode_feed_event(position: FeedPosition, view: TransitionView) -> bytes:
    """Return a transition as an event of a stream of many jobs."""
    return b"event: transition\nid: %b\ndata: %b\n\n" % (str(position).encode(), event_of(view))


def _outcome_of(view: TransitionView) -> Outcome | None:
    table = table_of(view.stage)
    return outcome_of(table, view.new_state) if table else None
