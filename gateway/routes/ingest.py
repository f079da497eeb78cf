"""Ingest a file: one multipart request stores it and answers its job."""

from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from gateway.bodies import Route, max_body
from gateway.callers.caller import Caller
from gateway.callers.dependencies import require
from gateway.callers.sessions import actor_of, session_of
from gateway.headers import IdempotencyKey
from gateway.job_options import complete_options
from gateway.parameters import MAX_KEY, Name, RecordType, Text
from gateway.problems import HttpProblem
from gateway.started_jobs import REPEATED, StartedJob, answer_job
from gateway.uploads import MULTIPART, fields_of, file_of, received_form, validated
from models.lifecycle import PRIORITY_DEFAULT, PRIORITY_FIRST, PRIORITY_LAST
from workers.ingestion import spooled
from workers.ingestion.options import MAX_SKIPPED_ROWS
from workers.operations import projects
from workers.runtime.json_text import JsonTextError, read_json
from workers.runtime.refusals import Problem

router = APIRouter(prefix="/v1/projects/{project_id}/ingest", tags=["operations"], route_class=Route)
Writer = Annotated[Caller, Depends(require("operations"))]
MAX_FILE_BYTES = 1024 * 1024 * 1024
# The boundaries and the other fields of the form.
_FORM_BYTES = 1024 * 1024


class IngestForm(BaseModel):
    """The fields of the form beside the file."""

    model_config = ConfigDict(extra="forbid")

    type: RecordType = Field(description="the type of the records")
    mapping: Text | None = Field(
        None,
        max_length=20_000,
        description='a JSON object, field to column: `{"content": "prompt"}`; unset: by the names of the columns',
    )
    encoding: Name | None = Field(None, description="such as cp1251 or shift_jis, which are not detected")
    delimiter: Name | None = Field(None, description="one character, or comma, semicolon, tab, pipe, space")
    quote: Name | None = Field(None, description="one character, or none if nothing is quoted")
    skip_rows: int = Field(0, ge=0, le=MAX_SKIPPED_ROWS, description="rows above the header")
    priority: int = Field(PRIORITY_DEFAULT, ge=PRIORITY_FIRST, le=PRIORITY_LAST)
    idempotency_key: Text | None = Field(None, min_length=1, max_length=MAX_KEY)
    on_failed: Literal["return", "rerun"] | None = None
    callback_url: str | None = Field(None, max_length=2_048, description="address that is told when the job ends")

    def options(self) -> dict[str, Any]:
        """Return how the file is to be read, as far as it was said."""
        names = ("encoding", "delimiter", "quote", "skip_rows")
        return {name: value for name, value in self.model_dump(include=set(names)).items() if value not in {None, 0}}

    def job_options(self) -> dict[str, Any]:
        """Return the options of the job that were given."""
        names = {"priority", "idempotency_key", "on_failed", "callback_url"}
        return self.model_dump(include=names, exclude_unset=True)


def _schema() -> dict[str, Any]:
    schema = IngestForm.model_json_schema()
    schema["properties"]["file"] = {
        "type": "string",
        "format": "binary",
        "description": f"CSV, JSON, JSON Lines, .xlsx, or one of these in gzip; at most {MAX_FILE_BYTES:,} bytes",
    }
    schema["required"].append("file")
    return schema


@router.post(
    "",
    operation_id="ingest_file",
    summary="Store a file and enqueue its ingestion",
    status_code=201,
    responses=REPEATED,
    openapi_extra={"requestBody": {"required": True, "content": {MULTIPART: {"schema": _schema()}}}},
)
@max_body(MAX_FILE_BYTES + _FORM_BYTES)
async def ingest(
    request: Request, response: Response, caller: Writer, project_id: UUID, key: IdempotencyKey
) -> StartedJob:
    """The file becomes records, each once, which are embedded then. `GET /v1/jobs/{id}/events` shows the progress.

    The bytes decide the kind of the file, not its name. A file without a header or content is refused at once.
    """
    async with session_of(request, caller) as session:  # before anything is received
        await projects.require_change(session, project_id)
    async with received_form(request) as form:
        upload = file_of(form)
        fields: IngestForm = validated(IngestForm, fields_of(form))
        given = fields.job_options()
        complete_options(request, given, key)
        examined = await spooled.examine(
            upload.file, name=upload.filename or "", mapping=_mapping(fields.mapping), options=fields.options()
        )
        async with session_of(request, caller) as session:
            await projects.require_change(session, project_id)
            job = await spooled.ingest_spooled(
                session,
                examined,
                project_id=project_id,
                type="TASK" if fields.type == "task" else "FEEDBACK",
                actor=actor_of(request, caller),
                **given,
            )
    return answer_job(response, job, spooled.STAGE)


def _mapping(text: str | None) -> dict[str, str]:
    if text is None:
        return {}
    try:
        found = read_json(text)
    except JsonTextError as error:
        raise _refuse(str(error)) from None
    if not isinstance(found, dict) or not all(isinstance(column, str) for column in found.values()):
        raise _refuse("must be a JSON object of texts")
    return found


def _refuse(rule: str) -> HttpProblem:
    problem = Problem("mapping", rule)
    return HttpProblem("invalid", str(problem), errors=[problem])
