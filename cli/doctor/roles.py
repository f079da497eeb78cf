"""Checks of the roles by their rows in Postgres: the dispatcher, beat and the workers."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from cli.doctor.check import Check, ok_or_failed
from cli.stage_view import describe_trouble
from cli.values import format_count, format_duration, format_time
from config.celery import SYSTEM_QUEUE
from workers.llm.answering import Answering, describe_report, report_of
from workers.runtime.database import Raw
from workers.runtime.handler.discovery import BrokenHandlers
from workers.runtime.handler.registry import discover
from workers.runtime.operate.health import (
    LEADER_SILENT_AFTER,
    BeatHealth,
    beat_health,
    count_slots_by_queue,
    notice_queue_usage,
    read_leader_silence,
)
from workers.runtime.operate.stages import list_stages
from workers.runtime.operate.workers import WorkerView, list_workers

_MAX_NAMES = 3
# The share of the notification queue that may be used. A busy system uses less than 1 %.
MAX_QUEUE_USAGE = 0.25


async def check_dispatcher(conn: Raw) -> Check:
    """Check that a dispatcher leads and was active in the last 5 s."""
    seen = await read_leader_silence(conn)
    found = f"leads, seen {seen.total_seconds():.1f} s ago" if seen is not None else "none has ever led"
    remedy = "start one: `gristmill up`, or `gristmill dispatcher`"
    return ok_or_failed("dispatcher", found, ok=seen is not None and seen < LEADER_SILENT_AFTER, remedy=remedy)


async def check_beat(conn: Raw) -> Check:
    """Check that no schedule is overdue. If one is, no beat runs or it is frozen."""
    return judge_beat(await beat_health(conn))


def judge_beat(health: BeatHealth) -> Check:
    """Return the check of beat by its schedules."""
    remedy = "start one: `gristmill up`, or `gristmill beat`; if one runs and fires nothing, it is frozen: restart it"
    if not health.enabled and health.last_fired_at is None:
        return Check("beat", "failed", "none has ever run here", remedy)
    last = "nothing has fired yet"
    if health.last_fired_at is not None:
        last = f"last fired {format_duration(health.now - health.last_fired_at)} ago by {health.last_fired_by}"
    if health.overdue:
        late = ", ".join(f"{name} (since {format_time(time)})" for name, time in health.overdue[:_MAX_NAMES])
        return Check(
            "beat", "failed", f"{format_count(len(health.overdue), 'schedule')} overdue: {late}; {last}", remedy
        )
    if health.refused:
        wrong = "; ".join(f"{name}: {error}" for name, error in health.refused[:_MAX_NAMES])
        return Check(
            "beat", "failed", f"cannot fire {wrong}", "correct it with `gristmill schedules edit`, or pause it"
        )
    return Check("beat", "ok", f"{format_count(health.enabled, 'schedule')} on time; {last}")


async def check_queues(conn: Raw) -> Check:
    """Check that every queue has a live worker."""
    slots = await count_slots_by_queue(conn)
    try:
        queues = [*sorted({stage.queue for stage in discover().values()}), SYSTEM_QUEUE]
    except BrokenHandlers:
        return Check(
            "workers", "failed", "no worker can start: the handlers cannot be loaded", "see the check of handlers"
        )
    missing = [queue for queue in queues if queue not in slots]
    found = ", ".join(f"{queue}: {format_count(slots.get(queue, 0), 'slot')}" for queue in queues)
    remedy = f"start a worker for {', '.join(missing)}: `gristmill up`, or `gristmill worker`"
    return ok_or_failed("workers", found, ok=not missing, remedy=remedy)


async def check_processes(conn: Raw, *, version: str) -> list[Check]:
    """Check each worker: it sends heartbeats, and runs this release."""
    found = await list_workers(conn)
    checks = []
    if silent := [one for one in found if one.state == "silent"]:
        names = ", ".join(f"{one.name} ({format_duration(one.silent_for)})" for one in silent[:_MAX_NAMES])
        remedy = (
            "look at its log; if it is frozen, end it and start another; its jobs are rescued and its row is deleted "
            "in a day"
        )
        checks.append(
            Check("silent", "warning", f"{format_count(len(silent), 'worker')} without a heartbeat: {names}", remedy)
        )
    other = sorted({one.version or "an older release" for one in _live(found)} - {version})
    if other:
        remedy = "restart the workers with this release, or use the command line of their release"
        checks.append(Check("versions", "warning", f"workers run {', '.join(other)}, this is {version}", remedy))
    return checks


async def check_answering(conn: Raw, here: Answering) -> Check:
    """Check that the workers use the provider of this shell's settings: the provider check asks only that one."""
    reports = [one for one in _live(await list_workers(conn)) if one.provider is not None]
    return compare_providers(reports, here)


def compare_providers(workers: Sequence[WorkerView], here: Answering) -> Check:
    """Compare the providers that the workers report with the provider of this shell."""
    name = "workers ask"
    for one in workers:
        if report_of(one.provider).get("problem"):
            remedy = (
                "give that worker the GRISTMILL_SECRET_KEYS of the others, or correct the setting it names; restart it"
            )
            return Check(name, "failed", f"{one.name}: {report_of(one.provider)['problem']}", remedy)
    own = asdict(here)
    differing = [one for one in workers if _differs(report_of(one.provider), own)]
    if differing:
        one = differing[0]
        more = f" (and {format_count(len(differing) - 1, 'more worker')})" if len(differing) > 1 else ""
        found = f"{one.name} asks {_describe(one.provider)}{more}; this shell would ask {_describe(own)}"
        remedy = (
            "set the same OPENAI_API_KEY, OPENAI_BASE_URL and GRISTMILL_LLM__* here and for every worker and restart "
            "the workers, or choose for all of them: `gristmill settings set ai_provider=…`"
        )
        return Check(name, "failed", found, remedy)
    if not workers:
        return Check(name, "unknown", "no worker has reported its provider yet; try again in a moment")
    return Check(name, "ok", f"{describe_report(own)}, as this shell would ({format_count(len(workers), 'worker')})")


async def check_notices(conn: Raw, *, max_usage: float = MAX_QUEUE_USAGE) -> Check:
    """Check that the notification queue is not nearly full. If it is full, every commit with a NOTIFY fails."""
    used = await notice_queue_usage(conn)
    remedy = (
        "end the session that listens and keeps its transaction open: in pg_stat_activity, the one with the oldest "
        "xact_start among those that have used LISTEN"
    )
    return ok_or_failed("notices", f"{used:.0%} of the notification queue is used", ok=used < max_usage, remedy=remedy)


async def check_stages(conn: Raw) -> Check:
    """Warn about stages in which attempts fail."""
    troubled = [(one.stage, trouble) for one in await list_stages(conn) if (trouble := describe_trouble(one))]
    if not troubled:
        return Check("stages", "ok", "no attempt failed in the last minutes")
    found = "; ".join(f"{stage}: {trouble}" for stage, trouble in troubled[:_MAX_NAMES])
    return Check(
        "stages", "warning", found, "`gristmill errors` shows the errors, `gristmill jobs why ID` that of one job"
    )


def _live(found: Sequence[WorkerView]) -> list[WorkerView]:
    return [one for one in found if one.state != "silent"]


def _differs(one: Mapping[str, Any], own: dict[str, Any]) -> bool:
    return any(one.get(name) != value for name, value in own.items() if name != "problem")


def _describe(reported: object) -> str:
    text, provider = describe_report(reported), report_of(reported)
    if provider.get("embedding_model"):
        text += f", vectors by {provider['embedding_model']}"
    if provider.get("url") and not provider.get("has_key"):
        text += ", without a key"
    return text
