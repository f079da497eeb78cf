"""Celery's consumer, except that no message and no lost broker can end the worker, and no message is quoted in a log.

Celery lets what it cannot foresee in a message (a body of two parts, a missing id) end the worker, which gives the
message back for the next worker to end by.
"""

from collections.abc import Callable
from logging import getLogger
from typing import Any

import structlog
from celery.worker.consumer import Consumer

from workers.runtime.failpoints import failpoint

log = structlog.get_logger(__name__)

# What reading a malformed message raises: brackets within brackets exhaust the stack, a number of 400 digits overflows.
# Lost connections, shutdown and the system's own errors pass.
UNREADABLE = (TypeError, ValueError, LookupError, AttributeError, RecursionError, OverflowError)
PROTOCOL = "a message follows Celery's protocol, in JSON"


class CarefulConsumer(Consumer):
    """Discards what it cannot read, with the reason."""

    def create_task_handler(self, *args: Any, **options: Any) -> Callable[[Any], None]:
        """Return what is called with each message."""
        receive = super().create_task_handler(*args, **options)

        def receive_carefully(message: Any) -> None:
            try:
                receive(message)
            except UNREADABLE as error:
                self._refuse(message, PROTOCOL, error)

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
        self._refuse(message, "a message names its task")

    def on_unknown_task(self, body: Any, message: Any, exc: BaseException) -> None:  # noqa: ARG002
        self._refuse(message, "a task is a stage that this worker knows, or gristmill.enqueue")

    def on_invalid_task(self, body: Any, message: Any, exc: BaseException) -> None:  # noqa: ARG002
        self._refuse(message, PROTOCOL, exc)

    def on_decode_error(self, message: Any, exc: BaseException) -> None:
        self._refuse(message, PROTOCOL, exc)

    def _refuse(self, message: Any, rule: str, error: BaseException | None = None) -> None:
        headers = message.headers if isinstance(message.headers, dict) else {}
        log.warning(
            "message_refused",
            rule=rule,
            task=str(headers.get("task"))[:100],
            error=type(error).__name__ if error else None,
        )
        if not message.acknowledged:
            errors: tuple[type[Exception], ...] = vars(self)["connection_errors"]  # its type stub has forgotten it
            message.reject_log_error(getLogger(__name__), errors)
