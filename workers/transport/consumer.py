"""Celery's consumer, except that no message and no lost broker can end the worker, and no message is quoted in a log.

Celery lets what it cannot foresee in a message (a body of two parts, a missing id) end the worker, which gives the
message back for the next worker to end by.
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from logging import getLogger
from typing import Any

import structlog
from celery.worker.consumer import Consumer

from workers.runtime.failpoints import failpoint
from workers.runtime.handler.errors import describe
from workers.runtime.operate.requests import DOOR, MAX_MESSAGE_BYTES
from workers.runtime.refusals import quoted
from workers.runtime.worker.dead_letters import DeadLetter

log = structlog.get_logger(__name__)

# What reading a malformed message raises: brackets within brackets exhaust the stack, a number of 400 digits overflows.
# Lost connections, shutdown and the system's own errors pass.
UNREADABLE = (TypeError, ValueError, LookupError, AttributeError, RecursionError, OverflowError)
# Where the eta of a message is put, which Celery is not to see.
DUE_HEADER = "gristmill_due_at"
PROTOCOL = "a message follows Celery's protocol, in JSON"


class CarefulConsumer(Consumer):
    """Refuses what it cannot read: the message and the reason are kept in Postgres, then it is acknowledged."""

    def create_task_handler(self, *args: Any, **options: Any) -> Callable[[Any], None]:
        """Return what is called with each message."""
        receive = super().create_task_handler(*args, **options)

        def receive_carefully(message: Any) -> None:
            try:
                if (size := len(message.body or b"")) > MAX_MESSAGE_BYTES:
                    self._refuse(message, f"a message must have at most {MAX_MESSAGE_BYTES:,} bytes, got {size:,}")
                    return
                if (reason := take_times(message)) is not None:
                    self._refuse(message, reason)
                    return
                receive(message)
            except UNREADABLE as error:
                self._refuse(message, _reason(message, error))

        return receive_carefully

    # kombu 5.7 may still restore or acknowledge a message over a connection that it has already thrown away, and falls
    # over its own None. The road has lost the message's fate; Postgres has not.

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Give the broken connection up; the consumer connects again afterwards, whatever happens here."""
        try:
            super().on_connection_error_after_connected(exc)
        except AttributeError as error:
            log.info("connection_was_gone", error=str(error))

    def call_soon_ack(self, p: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Acknowledge or reject soon; once the message's connection is gone, not at all."""

        def settle() -> None:
            failpoint("ack.before")
            try:
                p(*args, **options)
            except AttributeError as error:
                log.info("connection_was_gone", error=str(error))
            failpoint("ack.after")

        return super().call_soon_ack(settle)  # type: ignore[misc]  # newer than its stub

    def on_unknown_message(self, body: Any, message: Any) -> None:  # noqa: ARG002 - Celery's signature, as below
        self._refuse(message, f"a message must name its task, such as {DOOR}, got none")

    def on_unknown_task(self, body: Any, message: Any, exc: BaseException) -> None:  # noqa: ARG002
        task = _headers(message).get("task")
        self._refuse(message, f"task must be {DOOR}, with the stage as its first argument, got {quoted(task)}")

    def on_invalid_task(self, body: Any, message: Any, exc: BaseException) -> None:  # noqa: ARG002
        self._refuse(message, _reason(message, exc))

    def on_decode_error(self, message: Any, exc: BaseException) -> None:
        self._refuse(message, _reason(message, exc))

    def _refuse(self, message: Any, reason: str) -> None:
        """Keep the message with the reason, and only then take it off the road; what comes behind it goes on."""
        runtime = vars(self)["controller"].gristmill
        runtime.refuse(letter_of(message, reason), then=partial(self._let_go, message))

    def _let_go(self, message: Any) -> None:
        if not message.acknowledged:
            errors: tuple[type[Exception], ...] = vars(self)["connection_errors"]  # its type stub has forgotten it
            self.call_soon_ack(message.reject_log_error, getLogger(__name__), errors)


def take_times(message: Any) -> str | None:
    """Return why a message that expired is refused. Hand its eta to the door: Celery would keep it in memory.

    The headers that Celery itself acts upon are taken away: it forgets an expired message without a word, and gives a
    message with an eta to another worker after an hour. What lasts is the row, which has a ``due_at``.
    """
    headers = _headers(message)
    if (expires := headers.get("expires")) is not None:
        if not isinstance(expires, str):
            return f"expires must be a time in ISO 8601, got {quoted(expires)}"
        if (ended := _instant(expires)) <= datetime.now(UTC):
            return f"message must be taken before it expires, got it after {ended:%Y-%m-%d %H:%M:%S} UTC"
        headers["expires"] = None
    if (eta := headers.get("eta")) is not None:
        if not isinstance(eta, str):
            return f"eta must be a time in ISO 8601, got {quoted(eta)}"
        headers[DUE_HEADER] = _instant(eta).isoformat()
        headers["eta"] = None
    return None


def _instant(text: str) -> datetime:
    """Return the time; one without an offset is UTC, as Celery writes them. Raise ValueError."""
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def letter_of(message: Any, reason: str) -> DeadLetter:
    """Return what can be read of a message that was refused."""
    headers, about = _headers(message), message.delivery_info
    queue = about.get("routing_key") if isinstance(about, dict) else None
    return DeadLetter(
        reason,
        as_bytes(message.body),
        task=_name(headers.get("task")),
        message_id=_name(headers.get("id")),
        queue=_name(queue),
        content_type=_name(message.content_type),
        content_encoding=_name(message.content_encoding),
    )


def as_bytes(body: Any) -> bytes:
    """Return a message's body as it came, whatever its transport made of it."""
    match body:
        case bytes() | bytearray() | memoryview():
            return bytes(body)
        case str():
            return body.encode("utf-8", "surrogatepass")
        case None:
            return b""
        case _:
            return json.dumps(body, default=repr).encode()


def _headers(message: Any) -> dict[str, Any]:
    return message.headers if isinstance(message.headers, dict) else {}


def _name(value: Any) -> str | None:
    """Return a header's value as text; nothing for what is none."""
    return value if isinstance(value, str) and value.strip() else None


def _reason(message: Any, error: BaseException) -> str:
    """Return why a message that Celery cannot read is refused."""
    if message.content_type != "application/json":
        return f"content type must be application/json, got {quoted(message.content_type)}"
    return f"{PROTOCOL}: {describe(error)}"
