"""The message of a delivery: its id and its body. Pure.

The body is thin: it says what happened to which job. What the job found, the receiver asks the gateway for.
"""

from datetime import UTC
from typing import Any
from uuid import UUID

from pydantic_core import to_json

from models.notifications import Delivery

PING = "endpoint.ping"


def message_id(delivery_id: UUID) -> str:
    """Return the ``webhook-id`` of a delivery: the same for every attempt, also when it is sent again."""
    return f"msg_{delivery_id.hex}"


def compose_body(delivery: Delivery) -> bytes:
    """Return the body, the same at every attempt."""
    at = delivery.ended_at.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return to_json({"type": delivery.event, "timestamp": at, "data": _data(delivery)})


def _data(delivery: Delivery) -> dict[str, Any]:
    if delivery.job_id is None:
        return {"endpoint_id": str(delivery.endpoint_id)}
    path = f"/v1/jobs/{delivery.job_id}"
    return {
        "job_id": str(delivery.job_id),
        "stage": delivery.job_stage,
        "status": delivery.job_status,
        "version": delivery.job_version,
        "links": {"job": path, "result": f"{path}/result"},
    }
