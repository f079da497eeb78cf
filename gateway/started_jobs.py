"""The answer to a request that enqueues a job."""

from typing import Any
from uuid import UUID

from fastapi import Response
from pydantic import Field

from gateway.views import View
from workers.runtime.enqueue import Enqueued

# For routes that answer 201 for a new job, and 200 for the first job of a known key.
REPEATED: dict[int | str, dict[str, Any]] = {
    200: {"description": "the key is known: the first job (`Idempotent-Replayed: true`)"}
}


class StartedJob(View):
    """The job of a request. `GET /v1/jobs/{id}` shows it."""

    id: UUID
    stage: str = Field(examples=["scoring.score"])
    created: bool = Field(description="false: the idempotency key is known, and this is its first job")


def answer_job(response: Response, job: Enqueued, stage: str) -> StartedJob:
    """Return the view of ``job``; set the status and the headers of the answer."""
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    mark_created(response, created=job.created)
    return StartedJob(id=job.id, stage=stage, created=job.created)


def mark_created(response: Response, *, created: bool) -> None:
    """Set the status: 201 for something new, 200 for what was there already."""
    response.status_code = 201 if created else 200
    if not created:
        response.headers["Idempotent-Replayed"] = "true"
