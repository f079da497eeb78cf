"""The top causes of failed jobs, each with a job to look at and the command that retries them all."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from workers.runtime.database import Raw
from workers.runtime.operate.known import check_stage
from workers.runtime.store.failures import Cause, find_causes

LONGEST_SEARCHED = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorView:
    """One cause: which stage, what it says without what differs, how many jobs, when, one of them, how to retry.

    ``retry_command`` is None where none failed for good: those that back off come back by themselves.
    """

    stage: str
    cause: str
    failed: int
    backing_off: int
    first_at: datetime
    last_at: datetime
    sample_id: UUID
    sample_error: str
    retry_command: str | None


@dataclass(frozen=True, slots=True)
class Errors:
    """The top causes, and how many others there are; ``partial`` are tables of which only the newest were looked at."""

    errors: Sequence[ErrorView]
    others: int
    partial: Sequence[str]


async def top_errors(conn: Raw, *, stage: str | None = None, limit: int = 20) -> Errors:
    """Return the causes of most failed jobs; raise UnknownStageError."""
    await check_stage(conn, stage)
    found = await find_causes(conn, stage=stage)
    shown = [_view(one) for one in found.causes[:limit]]
    return Errors(shown, len(found.causes) - len(shown), found.partial)


def _view(one: Cause) -> ErrorView:
    return ErrorView(
        stage=one.stage,
        cause=one.cause,
        failed=one.failed,
        backing_off=one.backing_off,
        first_at=one.first_at,
        last_at=one.last_at,
        sample_id=one.sample,
        sample_error=one.error,
        retry_command=retry_command(one.stage, one.cause) if one.failed else None,
    )


def retry_command(stage: str, cause: str) -> str:
    """Return what a person types to retry every failed job of ``stage`` with this cause."""
    command = f"gristmill jobs retry --stage {shlex.quote(stage)} --status failed"
    searched = _searched(cause)
    return f'{command} --error "{searched}"' if searched else command


def _searched(cause: str) -> str:
    """Return the longest part of a cause that a shell reads as it is between double quotes; it may be cut at a word."""
    parts = (part.strip(" …,;:-") for part in re.split(r"[\"'`$\\!]|[^\x20-\x7e…]", cause))
    longest = max(parts, key=len, default="")
    if len(longest) <= LONGEST_SEARCHED:
        return longest
    return longest[:LONGEST_SEARCHED].rpartition(" ")[0].strip(" …,;:-") or longest[:LONGEST_SEARCHED]
