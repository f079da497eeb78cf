"""One stage as a row of a table, wherever stages are shown."""

from cli.values import duration
from workers.runtime.store.read import StageView

STAGE_COLUMNS = ("STAGE", ">READY", ">RUNNING", ">FAILED", ">OLDEST WAIT", ">DONE/MIN", ">SLOTS", "STATE")


def stage_row(stage: StageView) -> tuple[object, ...]:
    """Return the cells of ``STAGE_COLUMNS``."""
    if stage.paused_at is not None:
        state = f"paused by {stage.paused_by}"
    else:
        state = "no worker" if not stage.slots else "open"
    wait = duration(stage.oldest_wait) or "–"
    return stage.stage, stage.ready, stage.running, stage.failed, wait, stage.done_last_minute, stage.slots, state
