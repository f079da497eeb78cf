"""Projects and the ingestion of files, in the test gateway: the file is kept as it is, nothing is read from it."""

import email.parser
import email.policy
import hashlib
from typing import Any
from uuid import UUID, uuid4

from gristmill_client.testing.answers import Answer, Asked, json_answer
from gristmill_client.testing.job_routes import body_of, work_off
from gristmill_client.testing.jobs import Stage
from gristmill_client.testing.problems import invalid, not_found
from gristmill_client.testing.rules import read_job

STAGE = "ingestion.ingest"
_FIELDS = frozenset(
    {"type", "mapping", "encoding", "delimiter", "quote", "skip_rows", "priority", "idempotency_key", "on_failed"}
)
_OPTIONS = frozenset({"priority", "idempotency_key", "on_failed"})


class Files:
    """The projects and the files that were sent."""

    def __init__(self) -> None:
        self.projects: dict[UUID, tuple[UUID | None, str]] = {}
        self.by_job: dict[UUID, bytes] = {}

    def add_project(self, name: str, tenant: UUID | None) -> UUID:
        id_ = uuid4()
        self.projects[id_] = (tenant, name)
        return id_


def create_project(asked: Asked, files: Files) -> Answer:
    body = body_of(asked)
    name = body.get("name") if isinstance(body, dict) else None
    if not isinstance(name, str) or not name:
        raise invalid("name", "is required", name or "nothing")
    for id_, (tenant, known) in files.projects.items():
        if known == name and tenant == asked.key.tenant:
            return json_answer({"id": str(id_), "name": name}, 200, {"Idempotent-Replayed": "true"})
    id_ = files.add_project(name, asked.key.tenant)
    return json_answer({"id": str(id_), "name": name}, 201, {"Location": f"/v1/projects/{id_}"})


def ingest(asked: Asked, files: Files, project_id: UUID) -> Answer:
    tenant, _ = files.projects.get(project_id, (None, ""))
    if project_id not in files.projects or (tenant != asked.key.tenant and not asked.key.sees_all):
        raise not_found(f"project {project_id}")
    fields, file = _form(asked)
    for name in fields:
        if name not in _FIELDS:
            raise invalid(name, "is not a field", fields[name])
    if fields.get("type") not in {"task", "feedback"}:
        raise invalid(
            "type", "is required" if "type" not in fields else "must be 'task' or 'feedback'", fields.get("type")
        )
    if file is None:
        raise invalid("file", "is required", "nothing", "send it as a file part")
    if not file.strip():
        raise invalid("file", "must have content")
    job, created = _enqueue(asked, files, project_id, fields, file)
    headers = {"Location": f"/v1/jobs/{job}"} | ({} if created else {"Idempotent-Replayed": "true"})
    return json_answer({"id": str(job), "stage": STAGE, "created": created}, 201 if created else 200, headers)


def _enqueue(asked: Asked, files: Files, project_id: UUID, fields: dict[str, str], file: bytes) -> tuple[UUID, bool]:
    asked.jobs.stages.setdefault(STAGE, Stage(STAGE, searchable=("project_id",)))
    options: dict[str, Any] = {name: value for name, value in fields.items() if name in _OPTIONS}
    if "priority" in options:
        options["priority"] = int(options["priority"])
    if (header := asked.header("idempotency-key")) is not None:
        options.setdefault("idempotency_key", header)
    payload = {name: value for name, value in fields.items() if name not in _OPTIONS}
    payload |= {"project_id": str(project_id), "file": hashlib.sha256(file).hexdigest()}
    wanted = read_job({"stage": STAGE, "payload": payload, **options})
    job, created = asked.jobs.enqueue(wanted, tenant=asked.key.tenant, by=asked.key.name)
    if created:
        files.by_job[job.id] = file
    work_off(asked, job, created=created)
    return job.id, created


def _form(asked: Asked) -> tuple[dict[str, str], bytes | None]:
    """Return the fields and the file of a multipart body; raise Problem."""
    kind = asked.header("content-type") or ""
    if not kind.startswith("multipart/form-data"):
        raise invalid("Content-Type", "must be multipart/form-data", kind, kind="unsupported-media-type")
    text = b"Content-Type: " + kind.encode() + b"\r\n\r\n" + asked.request.content
    parser = email.parser.BytesParser(policy=email.policy.HTTP)
    fields: dict[str, str] = {}
    file: bytes | None = None
    for part in parser.parsebytes(text).iter_parts():
        name = str(part.get_param("name", header="content-disposition") or "")
        content = part.get_payload(decode=True)
        value = content if isinstance(content, bytes) else b""
        if name == "file" and part.get_filename() is not None:
            file = value
        elif name in fields:
            raise invalid(name, "must be sent once")
        else:
            fields[name] = value.decode()
    return fields, file
