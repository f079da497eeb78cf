"""Enqueue many jobs with one request: all in one transaction, or each for itself."""

import json
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Literal
from uuid import UUID

import structlog
from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import Response, StreamingResponse

from gateway.bodies import Route, max_body
from gateway.callers.caller import Caller
from gateway.callers.dependencies import require
from gateway.callers.sessions import session_of
from gateway.job_items import ItemFile, read_array, read_lines
from gateway.job_options import check_callback, find_trace
from gateway.job_requests import in_request, job_in
from gateway.limits import without_place
from gateway.problems import FieldError, HttpProblem, problem_of
from gateway.resources import services_of
from gateway.uploads import one_of_few
from workers.runtime.enqueue import Enqueued, enqueue_many
from workers.runtime.enqueue_validation import EnqueueError
from workers.runtime.handler.registry import UnknownStageError
from workers.runtime.refusals import Problem, Refusal, quoted

log = structlog.get_logger(__name__)

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=Route)

MAX_JOBS = 100_000
MAX_BATCH_BYTES = 256 * 1024 * 1024
# How many jobs one statement of a batch enqueues, if each is enqueued for itself.
EACH_AT_ONCE = 500
NDJSON, JSON = "application/x-ndjson", "application/json"
_REF = "#/components/schemas/{model}"
Writer = Annotated[Caller, Depends(require("jobs:write"))]


class Placed(BaseModel):
    """The job of one item of a batch."""

    id: UUID
    created: bool = Field(description="false: the key had this job")


class Batch(BaseModel):
    """The jobs of a batch, in the order of its items."""

    jobs: list[Placed]
    created: int = Field(description="how many are new")


class Row(BaseModel):
    """The result of one item, if each is enqueued for itself: a job, or why there is none."""

    index: int
    id: UUID | None = None
    created: bool | None = None
    type: str | None = Field(None, description="kind of the problem")
    detail: str | None = None
    errors: list[FieldError] | None = None


_ROW = {name: value for name, value in Row.model_json_schema(ref_template=_REF).items() if name != "$defs"}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            JSON: {
                "schema": {"type": "array", "maxItems": MAX_JOBS, "items": {"$ref": "#/components/schemas/JobRequest"}}
            },
            NDJSON: {"schema": {"type": "string", "description": "one job per line"}},
        },
    }
}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    201: {"model": Batch, "description": "all jobs, in the order of the items"},
    200: {
        "description": "with `mode=each`: one line per item",
        "content": {NDJSON: {"schema": _ROW}},
    },
}


@router.post(
    "/batch",
    operation_id="enqueue_jobs",
    summary=f"Enqueue up to {MAX_JOBS:,} jobs",
    status_code=201,
    response_class=Response,
    responses=_RESPONSES,
    openapi_extra=_BODY,
)
@max_body(MAX_BATCH_BYTES)
async def enqueue_batch(
    request: Request,
    caller: Writer,
    mode: Annotated[
        Literal["all", "each"],
        Query(description="all: one transaction, all or nothing; each: every job for itself, with one line per item"),
    ] = "all",
) -> Response:
    """Enqueue many jobs, of any stages: a JSON array, or one job per line.

    The body is read as it arrives. With `mode=all` one invalid job refuses all of them; the problem names its place,
    counted from 0. With `mode=each` the answer has a line for each item, in order.
    """
    if (key := request.headers.get("idempotency-key")) is not None:
        problem = Problem("Idempotency-Key", "is not for a batch", quoted(key), "give each job an idempotency_key")
        raise HttpProblem("invalid", str(problem), errors=[problem])
    items = ItemFile()
    try:
        async with without_place(request), one_of_few(request, services_of(request).batches):
            await _receive(request, items, is_each=mode == "each")
    except BaseException:
        items.close()
        raise
    if mode == "each":
        return StreamingResponse(_enqueue_each(request, caller, items), media_type=NDJSON)
    try:
        return await _enqueue_all(request, caller, items)
    finally:
        items.close()


async def _receive(request: Request, items: ItemFile, *, is_each: bool) -> None:
    """Read the items of the body. An item that is no job raises, unless each is enqueued for itself."""
    given = request.headers.get("content-type", "")
    match given.partition(";")[0].strip().lower():
        case "application/json":
            read = read_array(request.stream())
        case "application/x-ndjson" | "application/jsonl" | "application/x-jsonlines":
            read = read_lines(request.stream())
        case _:
            problem = Problem("Content-Type", f"must be {JSON} or {NDJSON}", quoted(given) if given else "nothing")
            raise HttpProblem(
                "unsupported-media-type", str(problem), errors=[problem], headers={"Accept": f"{JSON}, {NDJSON}"}
            )
    trace = find_trace(request)
    async for item in read:
        if items.count == MAX_JOBS:
            problem = Problem("body", f"must have at most {MAX_JOBS:,} jobs", "more")
            raise HttpProblem("too-large", str(problem), errors=[problem], headers={"Connection": "close"})
        try:
            stage, job = job_in(item)
            if trace is not None and job.get("traceparent") is None:
                job["traceparent"] = trace
            check_callback(request, job)
            items.add([stage, job])
        except EnqueueError as error:
            if not is_each:
                raise in_request(error, place=items.count) from None
            items.add([None, _problem(in_request(error))])


async def _enqueue_all(request: Request, caller: Caller, items: ItemFile) -> Response:
    """Enqueue all items in one transaction. The answer is built as text, because it may have 100,000 jobs."""
    parts, created, place = [b'{"jobs":['], 0, 0
    async with session_of(request, caller) as session:
        for chunk in items.read():
            done = await _enqueue_chunk(session, chunk, place)
            created += sum(one.created for one in done)
            shown = ",".join(f'{{"id":"{one.id}","created":{"true" if one.created else "false"}}}' for one in done)
            parts.append((("," if place else "") + shown).encode())
            place += len(chunk)
    parts.append(b'],"created":%d}' % created)
    return Response(b"".join(parts), 201, media_type=JSON)


async def _enqueue_chunk(session: AsyncSession, chunk: Sequence[Any], place: int | None = None) -> list[Enqueued]:
    """Enqueue the jobs of a chunk, one call for those of a stage.

    ``place`` is that of its first job: a refusal names the place of the invalid job, if it is known.
    """
    by_stage: dict[str, list[int]] = {}
    for nth, (stage, _) in enumerate(chunk):
        by_stage.setdefault(stage, []).append(nth)
    done: dict[int, Enqueued] = {}
    for stage, places in by_stage.items():
        try:
            found = await enqueue_many(session, stage, [chunk[nth][1] for nth in places])
        except (EnqueueError, UnknownStageError) as error:
            is_known = place is not None and (len(places) == 1 or getattr(error, "is_placed", True))
            first = places[getattr(error, "position", 0)]
            raise in_request(error, place=place + first if is_known and place is not None else None) from None
        done.update(zip(places, found, strict=True))
    return [done[nth] for nth in range(len(chunk))]


async def _enqueue_each(request: Request, caller: Caller, items: ItemFile) -> AsyncIterator[bytes]:
    """Yield a line for each item. If Postgres goes away, the rest of the items are refused."""
    place = 0
    try:
        for chunk in items.read():
            for start in range(0, len(chunk), EACH_AT_ONCE):
                part = chunk[start : start + EACH_AT_ONCE]
                rows = await _rows(request, caller, part)
                async with without_place(request):  # the client may read slowly
                    yield b"".join(
                        json.dumps({"index": place + nth} | row).encode() + b"\n" for nth, row in enumerate(rows)
                    )
                place += len(part)
    finally:
        items.close()


async def _rows(request: Request, caller: Caller, part: Sequence[Any]) -> list[dict[str, Any]]:
    """Enqueue a part of the items; return the result of each."""
    valid = [nth for nth, (stage, _) in enumerate(part) if stage is not None]
    rows: dict[int, dict[str, Any]] = {nth: job for nth, (stage, job) in enumerate(part) if stage is None}
    try:
        try:
            async with session_of(request, caller) as session:
                done = await _enqueue_chunk(session, [part[nth] for nth in valid])
            rows |= {nth: _placed(one) for nth, one in zip(valid, done, strict=True)}
        except Refusal:
            async with session_of(request, caller) as session:
                found = {nth: await _one(session, part[nth]) for nth in valid}
            rows |= found  # committed
    except Exception as error:  # noqa: BLE001 - the answer has begun
        refused = _problem(error)
        rows |= {nth: refused for nth in valid if nth not in rows}
    return [rows[nth] for nth in range(len(part))]


async def _one(session: AsyncSession, item: Any) -> dict[str, Any]:
    try:
        async with session.begin_nested():
            [done] = await _enqueue_chunk(session, [item])
    except Refusal as error:
        return _problem(error)
    return _placed(done)


def _placed(one: Enqueued) -> dict[str, Any]:
    return {"id": str(one.id), "created": one.created}


def _problem(error: Exception) -> dict[str, Any]:
    problem = problem_of(error)
    return {
        "type": problem.kind.uri,
        "detail": " ".join(problem.detail.split()),
        "errors": [one._asdict() for one in problem.errors],
    }
