"""One stage as a row of a table, for every command that shows stages."""

from cli.values import format_duration
from workers.runtime.operate.stages import MAX_COUNTED, RECENT_PERIOD, StageView
from workers.runtime.refusals import cut

STAGE_COLUMNS = (
    "STAGE",
    ">READY",
    ">BACKING OFF",
    ">LATER",
    ">RUNNING",
    ">WAITING",
    ">COMPLETED",
    ">FAILED",
    ">CANCELLED",
    ">OLDEST WAIT",
    ">DONE/MIN",
    ">SLOTS",
    "STATE",
)

# Left out on a narrow terminal if they are zero for every stage.
COUNT_COLUMNS = tuple(column.removeprefix(">") for column in STAGE_COLUMNS[2:-2])


def stage_row(stage: StageView) -> tuple[object, ...]:
    """Return the cells of ``STAGE_COLUMNS``."""

    def count_cell(name: str) -> str:
        value = getattr(stage, name)
        if value is None:
            return "–"
        return f">{value:,}" if name in stage.more_than else f"{value}"

    wait = format_duration(stage.oldest_wait) or "–"
    counts = ("ready", "backing_off", "later", "running", "waiting", "completed", "failed", "cancelled")
    return (
        stage.stage,
        *map(count_cell, counts),
        f">{wait}" if "oldest_wait" in stage.more_than else wait,
        stage.done_last_minute,
        stage.slots,
        _state(stage),
    )


def _state(stage: StageView) -> str:
    if stage.paused_at is not None:
        state = f"paused by {stage.paused_by}" if stage.paused_by else "paused"
    else:
        state = "open" if stage.slots else "no worker"
    trouble = describe_trouble(stage)
    return f"{state}; {trouble}" if trouble else state


def describe_trouble(stage: StageView) -> str | None:
    """Return what goes wrong in a stage, in a few words: failed attempts, else the reason why jobs back off."""
    if stage.failing_attempts:
        number = (
            f"more than {MAX_COUNTED:,}" if "failing_attempts" in stage.more_than else f"{stage.failing_attempts:,}"
        )
        attempts = "1 attempt" if stage.failing_attempts == 1 else f"{number} attempts"
        reason = f": {cut(stage.failing_reason)}" if stage.failing_reason else ""
        return f"{attempts} failed in {format_duration(RECENT_PERIOD)}{reason}"
    if stage.backing_off and stage.backing_off_reason:
        return f"backing off: {cut(stage.backing_off_reason)}"
    return None
