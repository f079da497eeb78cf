"""The gateway's part of a trace: from the client through the request to the job."""

from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler

from workers.runtime.tracing import trace_with

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = TRACE[:-1] + "0"
SAMPLED = 1


@pytest.fixture
def sampler() -> Sampler:
    return ALWAYS_ON


@pytest.fixture
def spans(sampler: Sampler) -> Iterator[InMemorySpanExporter]:
    """Trace this process into memory until the test ends."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=ParentBased(sampler))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace_with(provider)
    yield exporter
    trace_with(None)


def kept_trace(psql) -> str | None:
    found: str | None = psql.execute("SELECT traceparent FROM scoring.scoring_jobs").fetchone()["traceparent"]
    return found


async def test_a_job_belongs_to_the_span_of_its_request(service, tenants, psql, spans):
    """Which is below the client's. Its name is the route, not the path, which holds ids."""
    answer = await service.post("/v1/jobs", json=tenants.score(), headers={"traceparent": TRACE})

    assert answer.status_code == 201, answer.text
    [request] = spans.get_finished_spans()
    assert request.name == "POST /v1/jobs"
    assert request.parent.span_id == int(TRACE.split("-")[2], 16)
    assert request.attributes["http.response.status_code"] == 201
    assert kept_trace(psql) == f"{TRACE[:36]}{request.context.span_id:016x}-01"


@pytest.mark.parametrize("headers", [{}, {"traceparent": "wrong"}])
async def test_a_request_without_a_trace_begins_one(service, tenants, psql, spans, headers):
    """If the sampler chooses it."""
    await service.post("/v1/jobs", json=tenants.score(), headers=headers)

    [request] = spans.get_finished_spans()
    assert request.parent is None
    kept = kept_trace(psql)
    assert kept is not None
    assert kept.startswith(f"00-{request.context.trace_id:032x}-{request.context.span_id:016x}-")
    assert int(kept[-2:], 16) & SAMPLED


@pytest.mark.parametrize("sampler", [ALWAYS_OFF])
async def test_a_request_that_is_not_sampled_makes_no_span(service, tenants, psql, spans):
    """Its job has no trace either, so no run of it is traced."""
    await service.post("/v1/jobs", json=tenants.score())

    assert spans.get_finished_spans() == ()
    assert not int((kept_trace(psql) or UNSAMPLED)[-2:], 16) & SAMPLED


async def test_a_client_that_does_not_sample_is_followed(service, tenants, psql, spans):
    """Its context is kept, for whoever reads the row."""
    await service.post("/v1/jobs", json=tenants.score(), headers={"traceparent": UNSAMPLED})

    assert spans.get_finished_spans() == ()
    assert kept_trace(psql) == UNSAMPLED


async def test_a_failed_request_is_traced_with_its_status(service, spans):
    """Probes are not traced."""
    await service.get("/v1/jobs/no-id")
    await service.get("/healthz")

    [request] = spans.get_finished_spans()
    assert (request.name, request.attributes["http.response.status_code"]) == ("GET /v1/jobs/{job_id}", 422)
