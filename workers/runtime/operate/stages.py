"""What people do with stages: see how each is doing, pause and resume."""

from workers.runtime.actor import Actor, acting_on
from workers.runtime.database import Raw
from workers.runtime.operate.known import check_stage
from workers.runtime.store.intervene import pause, resume
from workers.runtime.store.stages import MAX_COUNTED, RECENT_PERIOD, StageView, list_stages

__all__ = ["MAX_COUNTED", "RECENT_PERIOD", "StageView", "list_stages"]


async def pause_stage(conn: Raw, stage: str, actor: Actor) -> None:
    """Dispatch nothing more of ``stage``; jobs that run already finish. The stage keeps who paused it first.

    Raise UnknownStageError.
    """
    await check_stage(conn, stage)
    async with conn.transaction(), acting_on(conn, actor):
        await pause(conn, stage, by=actor.changed_by)


async def resume_stage(conn: Raw, stage: str, actor: Actor) -> None:
    """Dispatch ``stage`` again. Raise UnknownStageError."""
    await check_stage(conn, stage)
    async with conn.transaction(), acting_on(conn, actor):
        await resume(conn, stage)
