"""Traces of jobs: from the door through dispatch and run to the provider's call. Off, and without cost, by default.

:func:`start_tracing` turns it on for this process, if OTEL_* asks for it; the SDK is in ``gristmill[tracing]``. A job
carries the W3C trace context of who enqueued it. Its runs are spans of their own with that context as a link, because
a job may run long after, and many times. Only jobs with a sampled context are traced.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import structlog

log = structlog.get_logger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_SAMPLED = 0x01
# At most this many producers are linked with one span of a dispatch.
MAX_LINKS = 32

_tracer: Any = None


def is_asked_for(environ: Mapping[str, str] = os.environ) -> bool:
    """Tell whether OTEL_* asks for traces: by an exporter, or by an endpoint for them."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    return exporter != "none" and bool(exporter or any(environ.get(name) for name in _ENDPOINTS))


def start_tracing(role: str) -> bool:
    """Trace this process if OTEL_* asks for it; return whether it does. Call it after a fork.

    ``role`` is the service's name unless OTEL_SERVICE_NAME is set. If the traces cannot be sent, a warning says why,
    and the role runs without them: OTEL_* may be set for all programs of a machine.
    """
    if not is_asked_for():
        return False
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower()
    if exporter != "otlp":
        log.warning("nothing_is_traced", reason=f"OTEL_TRACES_EXPORTER must be otlp or none, got {exporter!r}")
        return False
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # type: ignore[import-not-found, unused-ignore] # noqa: PLC0415 - optional
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError:
        log.warning("nothing_is_traced", reason="OTEL_* asks for traces", remedy="pip install 'gristmill[tracing]'")
        return False
    name = os.environ.get("OTEL_SERVICE_NAME") or f"gristmill-{role}"
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace_with(provider)
    return True


def trace_with(provider: Any) -> None:
    """Trace with this provider of OpenTelemetry's tracers; None ends it."""
    global _tracer  # noqa: PLW0603 - one per process, like the SDK's own
    _tracer = None if provider is None else provider.get_tracer("gristmill")


def is_tracing() -> bool:
    """Tell whether this process traces."""
    return _tracer is not None


def is_traceparent(text: str) -> bool:
    """Tell whether ``text`` is a context as W3C writes it."""
    return _TRACEPARENT.fullmatch(text) is not None


def current_traceparent() -> str | None:
    """Return the context of the current span as W3C writes it; None if there is none or nothing is traced."""
    if _tracer is None:
        return None
    from opentelemetry import trace  # noqa: PLC0415 - only who traces pays for the import

    found = trace.get_current_span().get_span_context()
    if not found.is_valid:
        return None
    return f"00-{found.trace_id:032x}-{found.span_id:016x}-{int(found.trace_flags):02x}"


def trace_id_of(traceparent: str | None) -> str | None:
    """Return the trace of a context, 32 hexadecimal digits."""
    return traceparent.split("-")[1] if traceparent else None


@contextmanager
def span(
    name: str,
    *,
    parent: str | None = None,
    links: Iterable[str | None] = (),
    attributes: Mapping[str, Any] | None = None,
    is_root: bool = False,
) -> Iterator[Any]:
    """Enclose a step in a span below ``parent``, or below the current one. ``parent`` and ``links`` are W3C contexts.

    It is only made below a sampled span, or if a link is sampled: then it is the root of a trace. With ``is_root`` it
    begins a trace, if OTEL_TRACES_SAMPLER chooses it. It yields the span of OpenTelemetry, or None. An exception is
    recorded by its type, without its text.
    """
    if _tracer is None:
        yield None
        return
    from opentelemetry import trace  # noqa: PLC0415 - as above

    linked = [trace.Link(one) for one in map(_context, links) if one is not None][:MAX_LINKS]
    given = _context(parent)
    above = given or trace.get_current_span().get_span_context()
    if not (above.is_valid and above.trace_flags & _SAMPLED) and not linked and not is_root:
        yield None
        return
    context = trace.set_span_in_context(trace.NonRecordingSpan(given)) if given else None
    with _tracer.start_as_current_span(
        name,
        context=context,
        links=linked,
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as made:
        try:
            yield made
        except BaseException as error:
            made.set_status(trace.StatusCode.ERROR)
            made.set_attribute("error.type", type(error).__name__)
            raise


def _context(traceparent: str | None) -> Any:
    """Return the context that ``traceparent`` says, if it is sampled; else None."""
    from opentelemetry import trace  # noqa: PLC0415 - as above

    if traceparent is None:
        return None
    _, trace_id, span_id, flags = traceparent.split("-")
    if not int(flags, 16) & _SAMPLED:
        return None
    return trace.SpanContext(
        int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=trace.TraceFlags(int(flags, 16))
    )
