"""The most frequent causes of failed jobs, each with a sample job and the command that retries all its jobs."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from workers.runtime.database import Raw
from workers.runtime.operate.known import check_stage
from workers.runtime.store.failures import Cause, find_causes

MAX_SEARCH_CHARACTERS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorView:
    """One cause: its stage, the error without its variable parts, counts, times, a sample job, the retry command.

    ``retry_command`` is None if no job has failed for good: jobs that back off are retried by themselves.
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
class TopErrors:
    """The top causes and the number of others; of the tables in ``partial`` only the newest jobs were read."""

    errors: Sequence[ErrorView]
    others: int
    partial: Sequence[str]


async def top_errors(conn: Raw, *, stage: str | None = None, limit: int = 20) -> TopErrors:
    """Return the most frequent causes of failed jobs; raise UnknownStageError."""
    await check_stage(conn, stage)
    found = await find_causes(conn, stage=stage)
    shown = [_view(one) for one in found.causes[:limit]]
    return TopErrors(shown, len(found.causes) - len(shown), found.partial)


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
    """Return the command that retries every failed job of ``stage`` with this cause."""
    command = f"gristmill jobs retry --stage {shlex.quote(stage)} --status failed"
    searched = _search_text(cause)
    return f'{command} --error "{searched}"' if searched else command


def _search_text(cause: str) -> str:
    """Return the longest part of a cause that is safe between double quotes in a shell; it may be cut at a word."""
    parts = (part.strip(" …,;:-") for part in re.split(r"[\"'`$\\!]|[^\x20-\x7e…]", cause))
    longest = max(parts, key=len, default="")
    if len(longest) <= MAX_SEARCH_CHARACTERS:
        return longest
    return longest[:MAX_SEARCH_CHARACTERS].rpartition(" ")[0].strip(" …,;:-") or longest[:MAX_SEARCH_CHARACTERS]
