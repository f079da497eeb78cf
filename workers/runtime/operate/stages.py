"""The use-cases of operators for stages: list, pause, resume."""

from workers.runtime.actor import Actor, acting_on
from workers.runtime.database import Raw
from workers.runtime.operate.known import check_stage
from workers.runtime.store.intervene import pause, resume
from workers.runtime.store.stages import MAX_COUNTED, RECENT_PERIOD, StageView, list_stages

__all__ = ["MAX_COUNTED", "RECENT_PERIOD", "StageView", "list_stages"]


async def pause_stage(conn: Raw, stage: str, actor: Actor) -> None:
    """Dispatch no more jobs of ``stage``; running jobs finish. The first person who paused it is recorded.

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
