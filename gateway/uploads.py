"""Receive files: bounded in number and size, on this machine's disk, before any transaction begins.

A route with a file finds its caller first, and only then reads the body: without a valid key nothing is received.
"""

import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile

from gateway.callers.caller import Caller
from gateway.limits import Capacity, without_place
from gateway.problems import HttpProblem
from gateway.resources import services_of
from workers.runtime.refusals import Problem, quoted

MAX_FIELDS, MAX_FIELD_BYTES = 20, 64 * 1024
MULTIPART = "multipart/form-data"
# A file is not received if less than this would stay free for the system.
_MIN_FREE_BYTES = 64 * 1024 * 1024


def require_media_type(request: Request, wanted: str) -> None:
    """Raise 415 unless the body is of this type."""
    given = request.headers.get("content-type", "")
    if given.partition(";")[0].strip().lower() != wanted:
        problem = Problem("Content-Type", f"must be {wanted}", quoted(given) if given else "nothing")
        raise HttpProblem("unsupported-media-type", str(problem), errors=[problem], headers={"Accept": wanted})


async def read_large(request: Request) -> bytes:
    """Return a body that is large but fits into memory."""
    async with one_of_few(request, services_of(request).uploads), without_place(request):
        return await request.body()


@asynccontextmanager
async def received_form(request: Request) -> AsyncIterator[FormData]:
    """Yield the fields and the file of a multipart body; a large file is on disk while the block runs."""
    require_media_type(request, MULTIPART)
    _require_space(request)
    async with one_of_few(request, services_of(request).uploads):
        async with without_place(request):
            form = await request.form(max_files=1, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES)
        try:
            yield form
        finally:
            await form.close()


@asynccontextmanager
async def one_of_few(request: Request, few: Capacity) -> AsyncIterator[None]:
    """Be one of the few requests that receive something large; raise 429 or 503 if there are enough."""
    caller: Caller = request.scope["state"]["caller"]
    await few.enter(caller.counted_as)
    try:
        yield
    finally:
        few.leave(caller.counted_as)


def file_of(form: FormData) -> UploadFile:
    """Return the file of the form; refuse a form without one."""
    found = form.get("file")
    if not isinstance(found, UploadFile):
        problem = Problem("file", "is required", "nothing" if found is None else "a text", "send it as a file part")
        raise HttpProblem("invalid", str(problem), errors=[problem])
    return found


def fields_of(form: FormData) -> dict[str, str]:
    """Return the texts of the form; refuse a field that was sent twice."""
    fields: dict[str, str] = {}
    for name, value in form.multi_items():
        if not isinstance(value, str):
            continue
        if name in fields:
            problem = Problem(name, "must be sent once")
            raise HttpProblem("invalid", str(problem), errors=[problem])
        fields[name] = value
    return fields


def validated(model: type[BaseModel], fields: Mapping[str, Any]) -> Any:
    """Return ``fields`` as ``model``; refuse them as FastAPI refuses a body."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        found = [{**one, "loc": ("body", *one["loc"])} for one in error.errors(include_url=False)]
        raise RequestValidationError(found) from None


def _require_space(request: Request) -> None:
    length = request.headers.get("content-length", "0")
    needed = int(length) if length.isdecimal() else 0
    if shutil.disk_usage(tempfile.gettempdir()).free < needed + _MIN_FREE_BYTES:
        raise HttpProblem(
            "temporary-reduced-capacity", "there is no space to receive this file", headers={"Retry-After": "30"}
        )
