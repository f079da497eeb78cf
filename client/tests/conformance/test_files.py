"""Uploads, and requests that have no operation of their own."""

import io
import uuid

import pytest
from gristmill_client import NotFound, NotPossible, Refused
from gristmill_client.http import new_key
from pydantic import BaseModel

CSV = b"prompt,category\nWrite an apology,top_10\nSay sorry,top_10\n"


def test_a_file_becomes_a_job(world, client, tmp_path):
    """From a path or an open file; the progress ends with the whole request; a repeat returns the first job."""
    project, key, told = world.project(), new_key(), []
    file = tmp_path / "tasks.csv"
    file.write_bytes(CSV)
    mapping = {"content": "prompt"}

    job = client.ingest(
        project, file, type="task", mapping=mapping, idempotency_key=key, on_progress=lambda *sent: told.append(sent)
    )
    again = client.ingest(project, io.BytesIO(CSV), type="task", mapping=mapping, idempotency_key=key, name="tasks.csv")

    assert (job.stage, job.created) == ("ingestion.ingest", True)
    assert (again.id, again.created) == (job.id, False)
    assert told[-1][0] == told[-1][1] > len(CSV)
    assert client.show(job.id).stage == "ingestion.ingest"


def test_what_is_wrong_with_a_file_is_said(world, client):
    with pytest.raises(Refused):
        client.ingest(world.project(), io.BytesIO(b""), type="task", idempotency_key=new_key())
    with pytest.raises(Refused) as caught:
        client.ingest(world.project(), io.BytesIO(CSV), type="other", idempotency_key=new_key())
    assert caught.value.field == "type"
    with pytest.raises(NotFound):
        client.ingest(uuid.uuid4(), io.BytesIO(CSV), type="task", idempotency_key=new_key())
    with pytest.raises(NotPossible, match="cannot be read"):
        client.ingest(world.project(), "/no/such/file", type="task", idempotency_key=new_key())


class Project(BaseModel):
    id: uuid.UUID
    name: str


def test_any_other_route_by_request(client):
    name = f"project {uuid.uuid4()}"

    made = client.request("POST", "/v1/projects", Project, json={"name": name})
    same = client.request("POST", "/v1/projects", Project, json={"name": name})

    assert (made.name, same.id) == (name, made.id)
    with pytest.raises(NotFound):
        client.request("GET", "/v1/no-such-route", dict)
