"""Remote control: Flower's Revoke cancels the durable job.

This command replaces Celery's own ``revoke``, which only keeps the id in the worker's memory.
"""

from typing import Any
from uuid import UUID

from celery.worker.control import control_command
from kombu.utils.functional import maybe_list


def _parse_ids(task_id: Any) -> list[UUID]:
    ids = []
    for text in maybe_list(task_id) or []:
        try:
            ids.append(UUID(str(text)))
        except ValueError:
            continue
    return ids


@control_command(name="revoke", variadic="task_id", signature="[id1 [id2 [... [idN]]]]")
def revoke(state: Any, task_id: Any, terminate: bool = False, signal: str | None = None, **_: Any) -> dict[str, str]:  # noqa: ARG001, FBT001, FBT002 - Celery's signature
    """Cancel ready or running jobs by id. Every worker gets the command; the first one cancels the jobs."""
    runtime = state.consumer.controller.gristmill
    cancelled = runtime.cancel(_parse_ids(task_id), reason="revoked by remote control")
    return {"ok": f"jobs cancelled: {len(cancelled)}"}
