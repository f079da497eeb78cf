"""Celery's consumer, made safe: no message and no lost broker can end the worker, and no log quotes a message.

In plain Celery an unexpected message (a body of two parts, a missing id) ends the worker. The message goes back to its
queue and ends the next worker.
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

# The errors of reading a malformed message. Deeply nested brackets raise RecursionError, a number of 400 digits raises
# OverflowError. Lost connections, shutdown and errors of the operating system are not among them.
UNREADABLE_ERRORS = (TypeError, ValueError, LookupError, AttributeError, RecursionError, OverflowError)
# Holds the message's eta, so that Celery does not act on it.
DUE_HEADER = "gristmill_due_at"
PROTOCOL = "a message follows Celery's protocol, in JSON"


class CarefulConsumer(Consumer):
    """Refuses messages that it cannot read: stores the message and the reason in Postgres, then acknowledges it."""

    def create_task_handler(self, *args: Any, **options: Any) -> Callable[[Any], None]:
        """Return the function that is called with each message."""
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
            except UNREADABLE_ERRORS as error:
                self._refuse(message, _reason(message, error))

        return receive_carefully

    # kombu 5.7 may restore or acknowledge a message on a connection that it has already closed. That raises
    # AttributeError, because the connection is None. No job is lost: the rows in Postgres decide.

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Close the broken connection. The consumer connects again afterwards, whatever happens here."""
        try:
            super().on_connection_error_after_connected(exc)
        except AttributeError as error:
            log.info("connection_was_gone", error=str(error))

    def call_soon_ack(self, p: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Acknowledge or reject soon. Do nothing if the message's connection is closed."""

        def settle() -> None:
            failpoint("ack.before")
            try:
                p(*args, **options)
            except AttributeError as error:
                log.info("connection_was_gone", error=str(error))
            failpoint("ack.after")

        return super().call_soon_ack(settle)  # type: ignore[misc]  # missing in its type stub

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
        """Store the message with the reason, then remove it from the queue. The messages behind it are not delayed."""
        runtime = vars(self)["controller"].gristmill
        runtime.refuse(dead_letter(message, reason), then=partial(self._let_go, message))

    def _let_go(self, message: Any) -> None:
        if not message.acknowledged:
            errors: tuple[type[Exception], ...] = vars(self)["connection_errors"]  # missing in its type stub
            self.call_soon_ack(message.reject_log_error, getLogger(__name__), errors)


def take_times(message: Any) -> str | None:
    """Return why an expired message is refused, else None. Move its eta to a header of ours for the door.

    The headers ``expires`` and ``eta`` are cleared, because Celery acts on them: it drops an expired message silently,
    and it keeps a message with an eta in memory and gives it to another worker after an hour. Our row has ``due_at``.
    """
    headers = _headers(message)
    if (expires := headers.get("expires")) is not None:
        if not isinstance(expires, str):
            return f"expires must be a time in ISO 8601, got {quoted(expires)}"
        if (ended := _parse_time(expires)) <= datetime.now(UTC):
            return f"message must be taken before it expires, got it after {ended:%Y-%m-%d %H:%M:%S} UTC"
        headers["expires"] = None
    if (eta := headers.get("eta")) is not None:
        if not isinstance(eta, str):
            return f"eta must be a time in ISO 8601, got {quoted(eta)}"
        headers[DUE_HEADER] = _parse_time(eta).isoformat()
        headers["eta"] = None
    return None


def _parse_time(text: str) -> datetime:
    """Return the time. Without an offset it is UTC, as Celery writes it. Raise ValueError if it is not ISO 8601."""
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def dead_letter(message: Any, reason: str) -> DeadLetter:
    """Return a dead letter with the readable parts of a refused message."""
    headers, about = _headers(message), message.delivery_info
    queue = about.get("routing_key") if isinstance(about, dict) else None
    return DeadLetter(
        reason,
        as_bytes(message.body),
        task=_text_or_none(headers.get("task")),
        message_id=_text_or_none(headers.get("id")),
        queue=_text_or_none(queue),
        content_type=_text_or_none(message.content_type),
        content_encoding=_text_or_none(message.content_encoding),
    )


def as_bytes(body: Any) -> bytes:
    """Return the body of a message as bytes, whatever type the transport made of it."""
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


def _text_or_none(value: Any) -> str | None:
    """Return a header's value, or None if it is not text."""
    return value if isinstance(value, str) and value.strip() else None


def _reason(message: Any, error: BaseException) -> str:
    """Return why a message that Celery cannot read is refused."""
    if message.content_type != "application/json":
        return f"content type must be application/json, got {quoted(message.content_type)}"
    return f"{PROTOCOL}: {describe(error)}"
