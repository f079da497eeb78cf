"""The handler of ``notifications.deliver``: send one message to one address, and note what became of it."""

import random
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated, Any
from uuid import UUID

import structlog
from pydantic import AwareDatetime, BaseModel, ConfigDict, StringConstraints, model_validator
from sqlalchemy.ext.asyncio import AsyncSession

from models.notifications import Delivery
from workers.notifications.attempts import (
    THROTTLING,
    Attempt,
    Verdict,
    add_attempt,
    judge_answer,
    judge_error,
    note_answer,
    note_error,
)
from workers.notifications.message import PING, compose_body, message_id
from workers.notifications.schedule import delay_after, parse_retry_after
from workers.notifications.targets import Key, Target, targets_of_process
from workers.outbound.signatures import sign_message
from workers.runtime.database import raw_of
from workers.runtime.handler.context import Context
from workers.runtime.handler.errors import Permanent, Retryable, RetryIn
from workers.runtime.handler.limits import Limit
from workers.runtime.handler.outcomes import Cancel, Complete, Fail, Outcome, Rows
from workers.runtime.handler.outside import Request
from workers.runtime.handler.registry import stage
from workers.runtime.refusals import Refusal

log = structlog.get_logger(__name__)

# Of one lane (an endpoint; an owner and a host), over all workers: a slow receiver holds no more slots than these.
MAX_IN_FLIGHT = 20
SEND_SECONDS = 20.0
MAX_ANSWER_BYTES = 2_048
# An endpoint that failed this often, without one success in this time, is disabled.
MIN_FAILURES, FAILING_FOR = 10, timedelta(days=5)

_NOTE_FAILURE = b"""
    UPDATE notifications.endpoints AS e
       SET consecutive_failures = e.consecutive_failures + 1, first_failure_at = coalesce(e.first_failure_at, now()),
           disabled_at = CASE WHEN %(gone)s OR (e.consecutive_failures + 1 >= %(min)s
                                                AND e.first_failure_at <= now() - %(span)s::interval) THEN now() END,
           disabled_reason = CASE
             WHEN %(gone)s THEN 'the endpoint answered 410: it wants nothing more'
             WHEN e.consecutive_failures + 1 >= %(min)s AND e.first_failure_at <= now() - %(span)s::interval
               THEN (e.consecutive_failures + 1) || ' attempts failed since '
                    || to_char(e.first_failure_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI "UTC"') || ', none succeeded'
             END
     WHERE e.id = %(id)s AND e.url = %(url)s AND e.disabled_at IS NULL
    RETURNING e.disabled_reason"""
_NOTE_SUCCESS = b"""
    UPDATE notifications.endpoints AS e SET consecutive_failures = 0, first_failure_at = NULL
      FROM (SELECT id FROM notifications.endpoints WHERE id = ANY (%(ids)s::uuid[]) AND consecutive_failures > 0
             ORDER BY id FOR NO KEY UPDATE) AS held
     WHERE e.id = held.id"""

Url = Annotated[str, StringConstraints(min_length=1, max_length=2_048)]
Word = Annotated[str, StringConstraints(min_length=1, max_length=40)]


class DeliveryOf(BaseModel):
    """What to deliver: an ``event`` of a job, to an endpoint or to a ``url``. The database makes most of them."""

    model_config = ConfigDict(extra="forbid")

    event: Annotated[str, StringConstraints(pattern=r"^[a-z]+\.[a-z_]+$", max_length=40)]
    endpoint_id: UUID | None = None
    url: Url | None = None
    job_id: UUID | None = None
    job_stage: Annotated[str, StringConstraints(min_length=1, max_length=100)] | None = None
    job_status: Word | None = None
    job_version: int | None = None
    ended_at: AwareDatetime | None = None

    @model_validator(mode="after")
    def _has_one_target(self) -> "DeliveryOf":
        if (self.endpoint_id is None) == (self.url is None):
            raise ValueError("must have either endpoint_id or url")
        return self


@stage(
    "notifications.deliver",
    of=Delivery,
    payload=DeliveryOf,
    limit=Limit("lane", MAX_IN_FLIGHT),
    timeout=timedelta(minutes=1),
)
async def deliver_notice(job: Delivery, ctx: Context) -> Outcome:
    """Send the message once. Only 2xx is a success; other answers and errors are tried again by the schedule.

    An address inside the network fails for good, and so does 410. Every attempt is kept on the row.
    """
    key = Key(None, job.owner_id) if job.endpoint_id is None else Key(job.endpoint_id, None)
    try:
        target = await targets_of_process().find(key, ctx.session, ctx.resources.keyring)
        secrets = [ctx.resources.keyring.decrypt(token) for token in target.tokens] if target else []
    except (Refusal, Permanent) as error:  # another process may have the key, or this one after its next start
        attempt = note_error(Retryable(f"message cannot be signed: {error}"), at=ctx.clock(), milliseconds=0)
        await ctx.checkpoint({"attempts": add_attempt(job.attempts, attempt)})
        raise _retry_in(job, attempt) from None
    if target is None:
        return Cancel("its endpoint was deleted")
    if target.disabled_reason and job.event != PING:
        return Cancel(f"its endpoint is disabled: {target.disabled_reason}")
    attempt, verdict, retry_after = await _send(job, ctx, target.url or job.url or "", secrets)
    attempts = {"attempts": add_attempt(job.attempts, attempt)}
    if verdict is Verdict.DELIVERED:
        return Complete(values=attempts, write=_success_of(job, target))
    await _keep_failure(job, ctx, attempts, target, is_gone=verdict is Verdict.GONE)
    if verdict is Verdict.RETRY:
        raise _retry_in(job, attempt, retry_after)
    return Fail(attempt.error or verdict)


async def _send(
    job: Delivery, ctx: Context, url: str, secrets: Sequence[str]
) -> tuple[Attempt, Verdict, timedelta | None]:
    """Return the attempt, what follows from it, and how long the receiver wants to be left alone."""
    at, began, body = ctx.clock(), time.monotonic(), compose_body(job)

    def passed() -> int:
        return round((time.monotonic() - began) * 1_000)

    try:
        headers = sign_message(secrets, message_id=message_id(job.id), at=at, body=body)
        answer = await ctx.resources.http.send(
            Request(
                url=url,
                method="POST",
                # The start of the answer is kept as it came, so it must not be compressed.
                headers={"content-type": "application/json", "accept-encoding": "identity", **headers},
                body=body,
                seconds=SEND_SECONDS,
                max_bytes=MAX_ANSWER_BYTES,
                cuts_body=True,
            )
        )
    except (Permanent, Retryable, Refusal) as error:
        return note_error(error, at=at, milliseconds=passed()), judge_error(error), None
    asked = answer.headers.get("retry-after") if answer.status in THROTTLING else None
    retry_after = parse_retry_after(asked, now=ctx.clock())
    return note_answer(answer, at=at, milliseconds=passed()), judge_answer(answer.status), retry_after


def _retry_in(job: Delivery, attempt: Attempt, retry_after: timedelta | None = None) -> RetryIn:
    """Return the error that leads to the next attempt by the schedule; the kernel ends it with the last one."""
    failed = job.retry_count - job.attempts_before + 1
    delay = delay_after(failed, draw=random.random, retry_after=retry_after)
    return RetryIn(attempt.error or "no answer", delay=delay)


async def _keep_failure(
    job: Delivery, ctx: Context, attempts: dict[str, Any], target: Target, *, is_gone: bool
) -> None:
    """Commit a failed attempt, and count it for its endpoint, which may be disabled by this.

    An endpoint that has another address by now is not blamed for the old one.
    """
    disabled: list[str] = []

    async def count_failure(session: AsyncSession) -> None:
        if job.endpoint_id is None or job.event == PING:
            return
        values = {"id": job.endpoint_id, "url": target.url, "gone": is_gone, "min": MIN_FAILURES, "span": FAILING_FOR}
        row = await (await (await raw_of(session)).execute(_NOTE_FAILURE, values)).fetchone()
        if row and row[0]:
            disabled.append(row[0])

    await ctx.checkpoint(attempts, count_failure)
    if job.endpoint_id is not None:
        targets_of_process().forget(Key(job.endpoint_id, None))
    if disabled:
        log.error(
            "callback_endpoint_disabled",
            endpoint=str(job.endpoint_id),
            owner=str(job.owner_id) if job.owner_id else None,
            reason=disabled[0],
            remedy="mend the receiver, then enable the endpoint and send the failed deliveries again",
        )


def _success_of(job: Delivery, target: Target) -> Rows | None:
    """Return the write that ends the failures of an endpoint, if it has any."""
    return Rows(_note_successes, [job.endpoint_id]) if job.endpoint_id and target.failures else None


async def _note_successes(session: AsyncSession, endpoint_ids: Sequence[Any]) -> None:
    await (await raw_of(session)).execute(_NOTE_SUCCESS, {"ids": list(set(endpoint_ids))})
