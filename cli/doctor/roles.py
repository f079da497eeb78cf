"""Checks of the roles that show themselves in Postgres: the dispatcher, beat and the workers."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from cli.doctor.check import Check, verdict
from cli.stage_view import trouble_of
from cli.values import duration, moment
from config.celery import SYSTEM_QUEUE
from workers.llm.answering import Answering, report_of, told
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

_SHOWN = 3
# The part of the queue that may be used. A busy system uses less than a hundredth.
MOST_NOTICES = 0.25


async def dispatcher(conn: Raw) -> Check:
    """Check that one leads, seen within 5 s."""
    seen = await read_leader_silence(conn)
    found = f"leads, seen {seen.total_seconds():.1f} s ago" if seen is not None else "none has ever led"
    mend = "start one: `gristmill up`, or `gristmill dispatcher`"
    return verdict("dispatcher", found, well=seen is not None and seen < LEADER_SILENT_AFTER, mend=mend)


async def beat(conn: Raw) -> Check:
    """Check that no schedule is overdue: a beat that is frozen, or none, fires nothing."""
    return judged(await beat_health(conn))


def judged(health: BeatHealth) -> Check:
    """Return what the schedules say of beat."""
    mend = "start one: `gristmill up`, or `gristmill beat`; one that runs and fires nothing is frozen: restart it"
    if not health.enabled and health.last_fired_at is None:
        return Check("beat", "failed", "none has ever run here", mend)
    last = "nothing has fired yet"
    if health.last_fired_at is not None:
        last = f"last fired {duration(health.now - health.last_fired_at)} ago by {health.last_fired_by}"
    if health.overdue:
        late = ", ".join(f"{name} (since {moment(time)})" for name, time in health.overdue[:_SHOWN])
        return Check("beat", "failed", f"{len(health.overdue)} schedules are overdue: {late}; {last}", mend)
    if health.refused:
        wrong = "; ".join(f"{name}: {error}" for name, error in health.refused[:_SHOWN])
        return Check("beat", "failed", f"cannot fire {wrong}", "`gristmill schedules edit` it, or pause it")
    return Check("beat", "ok", f"{health.enabled} schedules are on time; {last}")


async def workers(conn: Raw) -> Check:
    """Check that every queue has a living worker."""
    slots = await count_slots_by_queue(conn)
    try:
        queues = [*sorted({stage.queue for stage in discover().values()}), SYSTEM_QUEUE]
    except BrokenHandlers:
        return Check("workers", "failed", "no worker starts: handlers cannot be loaded", "see the check of handlers")
    missing = [queue for queue in queues if queue not in slots]
    found = ", ".join(f"{queue}: {slots.get(queue, 0)} slots" for queue in queues)
    mend = f"start a worker for {', '.join(missing)}: `gristmill up`, or `gristmill worker`"
    return verdict("workers", found, well=not missing, mend=mend)


async def processes(conn: Raw, *, version: str) -> list[Check]:
    """Check the workers one by one: none is silent, all run this release."""
    found = await list_workers(conn)
    checks = []
    if silent := [one for one in found if one.state == "silent"]:
        names = ", ".join(f"{one.name} ({duration(one.silent_for)})" for one in silent[:_SHOWN])
        mend = "look at its log, end it if it is frozen and start another; its jobs are rescued, its row goes in a day"
        checks.append(Check("silent", "warning", f"{len(silent)} workers give no sign of life: {names}", mend))
    other = sorted({one.version or "an older release" for one in _alive(found)} - {version})
    if other:
        mend = "restart the workers with this release, or use the command line of theirs"
        checks.append(Check("versions", "warning", f"workers run {', '.join(other)}, this is {version}", mend))
    return checks


async def answering(conn: Raw, here: Answering) -> Check:
    """Check that the workers' calls are answered by whom this shell's settings name: the check asks that one alone."""
    reports = [one for one in _alive(await list_workers(conn)) if one.provider is not None]
    return compared(reports, here)


def compared(workers: Sequence[WorkerView], here: Answering) -> Check:
    """Return what the workers' reports say beside this shell's own provider."""
    name = "workers ask"
    for one in workers:
        if report_of(one.provider).get("problem"):
            mend = (
                "give that worker the GRISTMILL_SECRET_KEYS of the others, or mend the setting it names, and restart it"
            )
            return Check(name, "failed", f"{one.name}: {report_of(one.provider)['problem']}", mend)
    own = asdict(here)
    differing = [one for one in workers if _differs(report_of(one.provider), own)]
    if differing:
        one = differing[0]
        more = f" (and {len(differing) - 1} workers more)" if len(differing) > 1 else ""
        found = f"{one.name} asks {_whole(one.provider)}{more}; this shell would ask {_whole(own)}"
        mend = (
            "set OPENAI_API_KEY, OPENAI_BASE_URL and GRISTMILL_LLM__* here and for every worker alike and restart the "
            "workers, or choose for all: `gristmill settings set ai_provider=…`"
        )
        return Check(name, "failed", found, mend)
    if not workers:
        return Check(name, "unknown", "no worker has said yet what it asks; look again in a moment")
    return Check(name, "ok", f"{told(own)}, as this shell would ({len(workers)} workers)")


async def notices(conn: Raw, *, most: float = MOST_NOTICES) -> Check:
    """Check that the queue of notices is not about to be full: every commit that sends one would then fail."""
    used = await notice_queue_usage(conn)
    mend = (
        "end the session that listens and keeps its transaction open: of those in pg_stat_activity that have used "
        "LISTEN, the one with the oldest xact_start"
    )
    return verdict("notices", f"{used:.0%} of their queue is used", well=used < most, mend=mend)


async def stages(conn: Raw) -> Check:
    """Tell in which stages attempts fail."""
    troubled = [(one.stage, trouble) for one in await list_stages(conn) if (trouble := trouble_of(one))]
    if not troubled:
        return Check("stages", "ok", "no attempt failed in the last minutes")
    found = "; ".join(f"{stage}: {trouble}" for stage, trouble in troubled[:_SHOWN])
    return Check("stages", "warning", found, "`gristmill errors` shows the causes, `gristmill jobs why ID` one job's")


def _alive(found: Sequence[WorkerView]) -> list[WorkerView]:
    return [one for one in found if one.state != "silent"]


def _differs(one: Mapping[str, Any], own: dict[str, Any]) -> bool:
    return any(one.get(name) != value for name, value in own.items() if name != "problem")


def _whole(reported: object) -> str:
    said, provider = told(reported), report_of(reported)
    if provider.get("embedding_model"):
        said += f", vectors by {provider['embedding_model']}"
    if provider.get("url") and not provider.get("has_key"):
        said += ", without a key"
    return said
