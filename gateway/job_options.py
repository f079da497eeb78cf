"""What the headers of a request add to the options of a new job, and what this process requires of them."""

from typing import Any

from fastapi import Request

from gateway.problems import HttpProblem
from gateway.resources import services_of
from workers.notifications.refusals import CallbackError
from workers.notifications.rules import check_url
from workers.runtime.enqueue_validation import EnqueueError
from workers.runtime.refusals import Problem, quoted
from workers.runtime.tracing import current_traceparent, is_traceparent


class RequestError(EnqueueError):
    """The request has a wrong shape; the field is named as in the request."""


def complete_options(request: Request, options: dict[str, Any], key: str | None) -> None:
    """Add the key and the trace context of the headers to ``options``; check the address of a callback.

    Raises HttpProblem if the body has another key than the header ``Idempotency-Key``; :func:`check_callback` raises
    RequestError.
    """
    if key is not None and options.get("idempotency_key") is None:
        options["idempotency_key"] = key
    if key is not None and options["idempotency_key"] != key:
        problem = Problem("Idempotency-Key", "must be the same as idempotency_key", quoted(key), "send one of them")
        raise HttpProblem("invalid", str(problem), errors=[problem])
    if options.get("traceparent") is None and (trace := find_trace(request)) is not None:
        options["traceparent"] = trace
    check_callback(request, options)


def find_trace(request: Request) -> str | None:
    """Return the trace context of new jobs: that of this process if it traces, else that of the client."""
    trace = current_traceparent() or request.headers.get("traceparent")
    return trace if trace is not None and is_traceparent(trace) else None  # W3C wants a wrong one to be ignored


def check_callback(request: Request, options: dict[str, Any]) -> None:
    """Raise RequestError if a callback would go to an address inside the network, as far as that is known by now.

    The worker that sends it looks its name up, and checks the addresses at each attempt.
    """
    url = options.get("callback_url")
    if isinstance(url, str):
        try:
            check_url(url, allow=services_of(request).resources.callbacks.allow, field_name="callback_url")
        except CallbackError as error:
            raise RequestError(error.problem or str(error)) from None
