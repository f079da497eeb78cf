"""What the gateway answers, typed. Unknown members are left out, so a newer gateway can be read."""

from datetime import datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from gristmill_client.models import Job, Outcome

T = TypeVar("T")


class GatewayJob(Job):
    """A job as the gateway shows it. ``version`` is what :meth:`Client.cancel` and others take as ``version``."""

    priority: int
    max_retries: int
    due_at: datetime | None = None
    idempotency_key: str | None = None
    started_at: datetime | None = None
    updated_at: datetime


class EnqueuedJob(GatewayJob):
    """The job of a request as it is now. ``created`` is False if the idempotency key had this job."""

    created: bool


class StartedJob(BaseModel):
    """The job of an upload. ``created`` is False if the idempotency key had this job."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: UUID
    stage: str
    created: bool


class Result(BaseModel, Generic[T]):
    """What a job has found. ``value`` is None unless the job has completed; ``error`` says why it failed."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: UUID
    outcome: Outcome | None = None
    version: int
    value: T | None = None
    error: str | None = None


class Transition(BaseModel):
    """One change of a job's state. ``outcome`` is how the job ended by it; None if it did not end.

    ``position`` is its place in a stream: give it as ``after`` to go on behind it. The history of one job also has
    ``context``, ``ip_address`` and ``user_agent``.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    job_id: UUID
    stage: str
    version: int
    old_state: str | None = None
    new_state: str
    outcome: Outcome | None = None
    action: str | None = None
    reason: str | None = None
    changed_by: str | None = None
    created_at: datetime
    context: dict[str, Any] | None = None
    ip_address: str | None = None
    user_agent: str | None = None
    position: str | None = None


class Progress(BaseModel):
    """How far a running job is, in percent."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    job_id: UUID
    stage: str
    version: int
    progress: int


class JobCount(BaseModel):
    """How many jobs match. If ``is_more``, there are more than that."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    jobs: int
    is_more: bool
