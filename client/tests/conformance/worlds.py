"""The two worlds of the suite: the gateway in memory, and a real gateway with a real Postgres.

Both have the stage ``scoring.score``, two tenants, a key that only reads, and an operator's key. The suite does to jobs
what a worker would do: by the controls of the test gateway, or by the owner of the tables in SQL.
"""

import json
import os
import uuid
from collections.abc import Mapping
from typing import Annotated, Any, Protocol

import psycopg
from gristmill_client.testing import Gateway
from psycopg.types.json import Jsonb
from pydantic import BaseModel, ConfigDict, StringConstraints

STAGE = "scoring.score"
TENANTS = ("first", "second")


class World(Protocol):
    """What the suite needs of a gateway."""

    url: str
    keys: Mapping[str, str]

    def transport(self) -> Any: ...
    def profile(self, tenant: str = "first") -> uuid.UUID: ...
    def project(self) -> uuid.UUID: ...
    def start(self, job_id: uuid.UUID, progress: int = 0) -> None: ...
    def complete(self, job_id: uuid.UUID, result: dict[str, Any]) -> None: ...
    def fail(self, job_id: uuid.UUID, error: str) -> None: ...


class ScoreRequest(BaseModel):
    """The payload of the real stage."""

    model_config = ConfigDict(extra="forbid")

    profile_id: uuid.UUID
    prompt: Annotated[str, StringConstraints(min_length=1)]
    model_name: str = "gpt-3.5-turbo"


class InMemory:
    """The test gateway."""

    def __init__(self) -> None:
        self.gateway = Gateway()
        self.gateway.add_stage(STAGE, payload=ScoreRequest, searchable=("profile_id",))
        self.url = "http://gristmill.test"
        other = uuid.uuid4()
        self.keys = {
            "first": self.gateway.api_key,
            "second": self.gateway.make_key(tenant=other),
            "reader": self.gateway.make_key(tenant=self.gateway.tenant, scopes=["jobs:read"]),
            "operator": self.gateway.make_key(scopes=["operate", "jobs:read", "jobs:write"]),
        }

    def transport(self) -> Any:
        return self.gateway.transport()

    def profile(self, tenant: str = "first") -> uuid.UUID:
        return uuid.uuid4()

    def project(self) -> uuid.UUID:
        return self.gateway.make_project(str(uuid.uuid4()))

    def start(self, job_id: uuid.UUID, progress: int = 0) -> None:
        self.gateway.start(job_id, progress=progress)

    def complete(self, job_id: uuid.UUID, result: dict[str, Any]) -> None:
        self.gateway.complete(job_id, {"llm_response": None, "parsed_score": result})

    def fail(self, job_id: uuid.UUID, error: str) -> None:
        self.gateway.fail(job_id, error)


# What the dispatcher and a worker do to a job: a ticket, a claim, a settlement.
_WORKER = """INSERT INTO runtime.workers (id, name, queues, slots, lease_seconds)
             VALUES (%s, 'conformance', '{scoring}', 1, 3600)"""
_DISPATCH = "UPDATE scoring.scoring_jobs SET dispatched_at = now() WHERE id = %s AND status = 'pending'"
_CLAIM = """UPDATE scoring.scoring_jobs
               SET status = 'processing', version = version + 1, lease_owner = %s, started_at = now(),
                   deadline_at = now() + interval '1 hour', change_action = 'claim'
             WHERE id = %s AND status = 'pending'"""
_PROGRESS = "UPDATE scoring.scoring_jobs SET progress = %s WHERE id = %s AND status = 'processing'"
_SETTLE = """UPDATE scoring.scoring_jobs
                SET status = %s, version = version + 1, completed_at = now(), dispatched_at = NULL, deadline_at = NULL,
                    progress = %s, parsed_score = %s, error_message = %s, change_action = %s
              WHERE id = %s AND status = 'processing'"""


class Real:
    """`gristmill gateway` of ``make client``."""

    def __init__(self) -> None:
        given = json.loads(os.environ["CLIENT_GATEWAY"])
        self.url = given["url"]
        self.keys = given["keys"]
        self._psql = psycopg.connect(os.environ["CLIENT_DATABASE_URL"], autocommit=True)
        self._worker = uuid.uuid4()
        self._psql.execute(_WORKER, [self._worker])
        self._users = {
            name: self._psql.execute("SELECT id FROM auth.users WHERE email = %s", [f"{name}@example.test"]).fetchone()
            for name in TENANTS
        }

    def close(self) -> None:
        self._psql.close()

    def transport(self) -> Any:
        return None

    def profile(self, tenant: str = "first") -> uuid.UUID:
        return self._made("INSERT INTO scoring.profiles (name, owner_id) VALUES (%s, %s) RETURNING id", tenant)

    def project(self) -> uuid.UUID:
        return self._made('INSERT INTO operations.projects (name, "ownerId") VALUES (%s, %s) RETURNING id', "first")

    def _made(self, statement: str, tenant: str) -> uuid.UUID:
        user = self._users[tenant]
        assert user is not None
        row = self._psql.execute(statement, [str(uuid.uuid4()), user[0]]).fetchone()  # type: ignore[call-overload]
        assert row is not None
        made: uuid.UUID = row[0]
        return made

    def start(self, job_id: uuid.UUID, progress: int = 0) -> None:
        self._psql.execute(_DISPATCH, [job_id])
        self._psql.execute(_CLAIM, [self._worker, job_id])
        self._psql.execute(_PROGRESS, [progress, job_id])

    def complete(self, job_id: uuid.UUID, result: dict[str, Any]) -> None:
        self.start(job_id)
        self._psql.execute(_SETTLE, ["completed", 100, Jsonb(result), None, "complete", job_id])

    def fail(self, job_id: uuid.UUID, error: str) -> None:
        self.start(job_id)
        self._psql.execute(_SETTLE, ["failed", 0, None, error, "fail", job_id])
