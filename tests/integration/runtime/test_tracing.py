"""A job's trace: from the door through dispatch and run to the provider's call; nothing where it is off."""

import sys
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from structlog.testing import capture_logs

from gristmill_testing.waiting import until
from tests.support.kernel import PLAIN, started_worker
from tests.support.proving.models import PlainJob
from workers.runtime.enqueue import enqueue
from workers.runtime.handler.context import Context
from workers.runtime.handler.outcomes import Complete
from workers.runtime.tracing import (
    current_traceparent,
    is_asked_for,
    is_tracing,
    span,
    start_tracing,
    trace_id_of,
    trace_with,
)

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = TRACE[:-1] + "0"


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    """Trace this process into memory until the test ends."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace_with(provider)
    yield exporter
    trace_with(None)


async def test_a_job_is_traced_from_its_door_to_what_its_run_calls(
    jobs, database_url, perform, spans, start_dispatcher
):
    """Dispatch and run are linked with the producer; what the run calls is below the run."""

    @perform
    async def call(_job: PlainJob, _ctx: Context) -> Complete:
        with span("provider call"):
            return Complete()

    await jobs.worker()
    with span("request", links=[TRACE]):
        door = trace.get_current_span().get_span_context()
        async with jobs.database.session() as session:
            job = await enqueue(session, PLAIN, {})
    kept = f"00-{door.trace_id:032x}-{door.span_id:016x}-{door.trace_flags:02x}"
    assert (await jobs.row(job.id))["traceparent"] == kept

    road = await start_dispatcher()
    await until(lambda: road.of(PLAIN))
    async with started_worker(database_url, perform.registry) as worker:
        await worker.run([(one.id, one.version) for one in road.of(PLAIN)])

    by_name = {one.name: one for one in spans.get_finished_spans()}
    run, called, dispatched = (by_name[name] for name in (f"run {PLAIN}", "provider call", f"dispatch {PLAIN}"))
    assert [link.context.span_id for link in run.links] == [door.span_id]
    assert [link.context.trace_id for link in dispatched.links] == [door.trace_id]
    assert called.parent.span_id == run.context.span_id
    assert run.attributes["gristmill.job_id"] == str(job.id)


@pytest.mark.parametrize("traceparent", [None, UNSAMPLED])
async def test_a_job_whose_producer_was_not_sampled_makes_no_span(jobs, database_url, perform, spans, traceparent):
    """The producer decides."""

    @perform
    async def call(_job: PlainJob, _ctx: Context) -> Complete:
        with span("provider call"):
            return Complete()

    tickets = await jobs.dispatched(traceparent=traceparent)
    async with started_worker(database_url, perform.registry) as worker:
        await worker.run(tickets)

    assert spans.get_finished_spans() == ()


def test_an_error_is_recorded_without_its_text(spans):
    """The text may hold a payload."""
    with pytest.raises(RuntimeError), span("run", links=[TRACE]):
        raise RuntimeError("secret")

    [one] = spans.get_finished_spans()
    assert (one.attributes["error.type"], one.status.is_ok, one.events) == ("RuntimeError", False, ())
    assert one.status.description is None


def test_nothing_is_traced_by_default():
    """A span is nothing then, and a job has no context."""
    with span("request", links=[TRACE]):
        assert current_traceparent() is None
    assert not is_tracing()


@pytest.mark.parametrize(
    ("environ", "asked"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "x"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"}, False),
    ],
)
def test_the_settings_of_opentelemetry_decide(environ, asked):
    """Gristmill has none of its own."""
    assert is_asked_for(environ) == asked


def test_a_missing_exporter_stops_no_role(monkeypatch):
    """A warning says what to install: OTEL_* may be set for all programs of a machine."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter", None)

    with capture_logs() as said:
        assert not start_tracing("worker")

    assert [one["remedy"] for one in said] == ["pip install 'gristmill[tracing]'"]
    assert not is_tracing()


def test_an_unknown_exporter_stops_no_role(monkeypatch):
    """Only OTLP is sent."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "zipkin")

    with capture_logs() as said:
        assert not start_tracing("worker")

    assert [one["reason"] for one in said] == ["OTEL_TRACES_EXPORTER must be otlp or none, got 'zipkin'"]


def test_a_door_goes_on_with_the_trace_of_its_caller(spans):
    """So what it enqueues belongs to that trace."""
    with span("request", parent=TRACE):
        assert trace_id_of(current_traceparent()) == trace_id_of(TRACE)
    with span("request", parent=UNSAMPLED):
        assert current_traceparent() is None

    [one] = spans.get_finished_spans()
    assert one.parent.span_id == int(TRACE.split("-")[2], 16)
